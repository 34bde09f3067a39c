"""Rule-based texts (no LLM): measurement of tiles, and sentences composed from the evidence."""
