"""Fine-tuning of a whole vision-language model, and decoding."""
