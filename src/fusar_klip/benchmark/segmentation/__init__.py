"""Segmentation: Segmenter on a model's image tower, OA and IoU with intervals, and pictures of masks."""
