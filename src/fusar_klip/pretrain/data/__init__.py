"""The data of pretraining: tiles, texts, the sampler and the batches."""
