"""ViTDet: a detector on a plain ViT."""
