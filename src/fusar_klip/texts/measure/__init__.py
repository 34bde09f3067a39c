"""Rule-based texts: what is measured in a tile, and the sentences made of it (no LLM)."""
