"""Fine-tuning of a pretrained model on labelled data, with one training function for each task.

- `classification.train_classifier`: a linear head on the image tower.
- `detection.training.train_detector`: ViTDet.
- `segmentation.training.train_segmenter`: Segmenter.
- `language.training.train_language`: the whole model, on captions or questions.

Each function copies the model, builds the head, trains both by `training_loop.py`, and returns the result.
The evaluation is in `benchmark`.
"""
