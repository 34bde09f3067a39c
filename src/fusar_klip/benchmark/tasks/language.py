"""What the three language tasks share: their data, the fine-tuning, and the folder of a fine-tuned model."""

import logging
import re
from pathlib import Path

from fusar_klip.benchmark.evaluated_model import EvaluatedModel
from fusar_klip.benchmark.settings import LanguageRow, VqaRow
from fusar_klip.datasets.label_texts.label_texts import build_texts, labelled
from fusar_klip.datasets.label_texts.records import LanguageData, read_records
from fusar_klip.errors import CheckpointError, DatasetError
from fusar_klip.finetune.language.examples import TextKind
from fusar_klip.finetune.language.training import train_language
from fusar_klip.finetune.resized_images import ResizedImages
from fusar_klip.models import Klip
from fusar_klip.models.captioning import Speaks
from fusar_klip.models.checkpoint import save_run

logger = logging.getLogger(__name__)


def read_language(row: LanguageRow, path: Path) -> LanguageData:
    """Read a row's images, captions and questions.

    Raises:
        DatasetNotFoundError: There is no such folder.
        DatasetError: The layout is not the reader's, there is no split, or a part is empty.
    """
    if row.reader == "label_texts":
        data = read_records(path, row.dataset)
    else:
        data = build_texts(labelled(row.reader, path, row, row.split_file), row)
    for part in ("train", "test"):
        if not len(data.part(part)) or (isinstance(row, VqaRow) and not data.asked(part)):
            what = "questions" if isinstance(row, VqaRow) else "images"
            raise DatasetError(f"{row.dataset} at {path} has no {part} {what}: check its split")
    if len(data.part("test")) < 2 or len(data.part("train")) < 2:
        raise DatasetError(f"{row.dataset} at {path} has a part of one image: at least two are needed")
    return data


def train_for_row(
    row: LanguageRow,
    data: LanguageData,
    subject: EvaluatedModel,
    images_nss: ResizedImages,
    texts: TextKind,
    speaks: Speaks | None = None,
) -> Klip:
    """Return a copy of the model, fine-tuned on the row's data, and save it where the row sets `save`.

    Args:
        row: The row.
        data: Its data.
        subject: The model under test.
        images_nss: (N, S, S) uint8, all images of `data` at the model's size.
        texts: Whether the model learns the captions or the questions.
        speaks: What the fine-tuned model generates by `caption` or `ask`.

    Raises:
        CheckpointError: The model has no text side, and the row names none; or the row saves a model that no
            RUN can hold.
    """
    model = subject.model
    if row.save and row.text_side is not None and not isinstance(model, Klip):
        raise CheckpointError(
            f"{model.source} has another project's image tower, which a RUN cannot hold: set save = false"
        )
    trained = train_language(model, images_nss, data, row, texts)
    trained.speaks = speaks
    if row.save:
        folder = saved_model_folder(subject.results, subject.name, row)
        save_run(trained, folder)
        logger.warning("the fine-tuned model is %s", folder)
    return trained


def saved_model_folder(results: Path, name: str, row: LanguageRow) -> Path:
    """Return RESULTS/models/MODEL-TASK-DATASET, where a row saves the fine-tuned model `name`."""
    plain = re.sub(r"[^a-z0-9]+", "-", f"{name} {row.task} {row.dataset}".lower()).strip("-")
    return results / "models" / plain
