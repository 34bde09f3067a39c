"""Rows, data and fine-tuning of the language tasks: retrieval of captions, captioning, question answering."""

import logging
import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from fusar_klip.benchmark.evaluated_model import EvaluatedModel
from fusar_klip.benchmark.settings import SplitRow
from fusar_klip.benchmark.tasks.task import READ_BY_READER
from fusar_klip.datasets.label_texts.generate import LabelTextSettings, build_texts, load_boxes_or_masks
from fusar_klip.datasets.label_texts.language_data import LanguageData, read_records
from fusar_klip.datasets.registry import reader_validator
from fusar_klip.datasets.splits import AnyData
from fusar_klip.errors import CheckpointError, DatasetError
from fusar_klip.finetune.language.examples import TextKind
from fusar_klip.finetune.language.settings import LanguageSettings
from fusar_klip.finetune.language.training import train_language
from fusar_klip.finetune.resized_images import ResizedImages
from fusar_klip.models import Klip
from fusar_klip.models.captioning import GenerationConfig
from fusar_klip.models.checkpoint import save_run

logger = logging.getLogger(__name__)

READ_BY_TEXTS = (*READ_BY_READER, "target_grid", "land_grid", "least_share", "text_seed")
"""The values of a `LanguageRow` that decide its data (`BenchmarkTask.read_by`)."""


class LanguageRow(LanguageSettings, SplitRow, LabelTextSettings):
    """A row on captions and questions, on which a copy of the whole model is fine-tuned."""

    NEEDS_QUESTIONS: ClassVar[bool] = False
    """Whether both parts need questions."""
    reader: Literal["label_texts"] | Annotated[str, reader_validator("detection", "segmentation")]
    """A reader of boxes or masks, from which texts are generated; or `label_texts`: `path` is a folder that
    `fusar-klip label-texts` wrote, whose parts are used unchanged."""
    save: bool = False
    """Save the fine-tuned model as a RUN in RESULTS/models, for `fusar-klip caption` and `ask`."""


def read_language(row: LanguageRow, path: Path) -> LanguageData:
    """Read a row's images, captions and questions.

    Raises:
        DatasetNotFoundError: There is no such folder.
        DatasetError: The layout is not the reader's, there is no split, or a part is empty.
    """
    if row.reader == "label_texts":
        data = read_records(path, row.dataset)
    else:
        data = build_texts(load_boxes_or_masks(row.reader, path, row, row.dataset), row)
    for part in ("train", "test"):
        if not len(data.part(part)) or (row.NEEDS_QUESTIONS and not data.asked(part)):
            missing = "questions" if row.NEEDS_QUESTIONS else "images"
            raise DatasetError(f"{row.dataset} at {path} has no {part} {missing}: check its split")
    if len(data.part("test")) < 2 or len(data.part("train")) < 2:
        raise DatasetError(f"{row.dataset} at {path} has a part with one image: at least two are needed")
    return data


def text_side(row: LanguageRow) -> str | None:
    """Return the RUN whose text side a row attaches to the models (`BenchmarkTask.text_side`)."""
    return row.text_side


def labelled_images(data: LanguageData) -> AnyData | None:
    """Return the images that the texts were generated from; None for a `label_texts` folder."""
    return data.source


def saved_model(row: LanguageRow, name: str) -> Path | None:
    """Return models/MODEL-TASK-DATASET, where a row with `save` saves the fine-tuned model; else None.

    Args:
        row: The row.
        name: The model's name in the results.
    """
    if not row.save:
        return None
    return Path("models") / re.sub(r"[^a-z0-9]+", "-", f"{name} {row.task} {row.dataset}".lower()).strip("-")


def train_for_row(
    row: LanguageRow,
    data: LanguageData,
    evaluated: EvaluatedModel,
    images_nss: ResizedImages,
    texts: TextKind,
    generation: GenerationConfig | None = None,
) -> Klip:
    """Return a copy of the model, fine-tuned on the row's data, and save it where the row sets `save`.

    Args:
        row: The row.
        data: Its data.
        evaluated: The model to fine-tune.
        images_nss: (N, S, S) uint8, all images of `data` at the model's size.
        texts: Whether the model learns the captions or the questions.
        generation: What the fine-tuned model generates by `caption` or `ask`.

    Raises:
        CheckpointError: The model has no text side, and the row names none; or the row saves a model that no
            RUN can hold.
    """
    model = evaluated.model
    if row.save and row.text_side is not None and not isinstance(model, Klip):
        raise CheckpointError(
            f"{model.title} has another project's image tower, which a RUN cannot hold: set save = false"
        )
    trained = train_language(model, images_nss, data, row, texts)
    trained.generation = generation
    if (folder := saved_model(row, evaluated.name)) is not None:
        save_run(trained, evaluated.results / folder)
        logger.warning("the fine-tuned model is %s", evaluated.results / folder)
    return trained
