"""Task heads and their training: classification, detection, segmentation, language."""
