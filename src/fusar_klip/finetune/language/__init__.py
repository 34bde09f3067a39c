"""Fine-tuning of the whole model on captions or questions, and decoding of its texts."""
