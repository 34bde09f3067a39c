"""What a task can ask of a model; `ModelRef.capabilities` returns what a model offers."""

from typing import Literal

Capability = Literal["image_features", "patch_grid", "text_features", "matching", "generation", "chat"]
"""`image_features`: a feature vector per image. `patch_grid`: a plain ViT whose position embeddings can be
resampled to another image size. `text_features`: image and text embeddings of one space. `matching`: the
probability that image and text belong together; some files of a published model may lack it. `generation`:
fusion encoder and decoder. `chat`: answers to free questions, by a language model.
"""
