"""Segmenter: a mask transformer on a plain ViT."""
