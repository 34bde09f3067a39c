"""Detection: ViTDet on a model's image tower, AP with intervals, pictures of right and wrong boxes."""
