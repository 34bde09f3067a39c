"""The FUSAR-KLIP network: image tower, text tower, fusion and decoder (paper 3.3)."""
