"""The verbs `fusar-klip caption` and `fusar-klip ask`: a checkpoint loaded once, and what it says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fusar_klip.models.checkpoint import load
from fusar_klip.progress import track


@dataclass(frozen=True)
class Captions:
    """What a model writes about images."""

    checkpoint: str
    captions: dict[str, str]
    """By the image's path as it was given."""


@dataclass(frozen=True)
class Answer:
    """What a model answers to a question about an image."""

    checkpoint: str
    image: str
    question: str
    answer: str


def captions(images: Sequence[Path], checkpoint: str) -> Captions:
    """Describe images; raises as `checkpoint.load` and `Klip.caption`."""
    model = load(checkpoint)
    return Captions(checkpoint, {str(image): model.caption(image) for image in track(images, "Writing")})


def answer(image: Path, question: str, checkpoint: str) -> Answer:
    """Answer a question; raises as `checkpoint.load` and `Klip.ask`."""
    return Answer(checkpoint, str(image), question, load(checkpoint).ask(image, question))
