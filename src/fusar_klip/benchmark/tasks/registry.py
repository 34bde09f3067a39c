"""The registry of tasks, by the name that a row of a suite gives.

A new task is a module beside this one and an entry here. `suite.py` validates rows by this table, `runner.py`
reads data and evaluates models by it, and the report takes its titles from it.
"""

from typing import Any

from fusar_klip.benchmark.tasks import (
    captioning,
    classification,
    detection,
    label_retrieval,
    retrieval,
    segmentation,
    vqa,
)
from fusar_klip.benchmark.tasks.task import BenchmarkTask

TASKS: dict[str, BenchmarkTask[Any, Any]] = {
    "linear_probe": classification.LINEAR_PROBE,
    "knn": classification.KNN,
    "finetune": classification.FINETUNE,
    "detection": detection.DETECTION,
    "segmentation": segmentation.SEGMENTATION,
    "retrieval": retrieval.RETRIEVAL,
    "label_retrieval": label_retrieval.LABEL_RETRIEVAL,
    "captioning": captioning.CAPTIONING,
    "vqa": vqa.VQA,
}
