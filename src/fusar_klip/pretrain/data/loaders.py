"""What a run's loop reads: batches of training and validation, the tokenizer and the preprocessing."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.models import Preprocess, Tokenizer, open_tile_cache
from fusar_klip.pretrain.data.batches import Batches
from fusar_klip.pretrain.data.dataset import (
    TextedTiles,
    measure_preprocess,
    read_split,
    texted_tiles,
    training_texts,
)
from fusar_klip.pretrain.distributed import Ranks
from fusar_klip.pretrain.run_folder import RunFolder
from fusar_klip.pretrain.settings import PretrainSettings

_log = logging.getLogger(__name__)

Texts = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Materials:
    """What the loop reads.

    Attributes:
        tokenizer: The run's.
        preprocess: The run's.
        train: Batches of training.
        val: Batches of validation, whole texts; None where there are too few tiles.
        val_tiles: The validation tiles.
        unreadable: tile_ids that are left out, since they cannot be read.
    """

    tokenizer: Tokenizer
    preprocess: Preprocess
    train: Batches
    val: Batches | None
    val_tiles: TextedTiles
    unreadable: tuple[str, ...]


def set_up(dataset: Path, folder: RunFolder, settings: PretrainSettings, texts: Texts) -> None:
    """Write the preprocessing and the tokenizer of a new run; a run that is set up keeps its own.

    Raises:
        DatasetError: There are fewer than two training tiles.
        SettingsError: `init.text` is given without a tokenizer.
    """
    if folder.is_set_up():
        return
    image_size = settings.architecture.image_size
    if (count := len(texted_tiles(dataset, "train", texts, image_size))) < 2:
        raise DatasetError(
            f"{dataset} has {count} kept training tiles with a text, and contrast needs two: "
            "build it from more scenes, or describe it"
        )
    preprocess = measure_preprocess(dataset, image_size)
    tokenizer = _new_tokenizer(dataset, settings, texts)
    preprocess.save(folder.preprocess)
    tokenizer.save(folder.tokenizer)


def read_materials(
    dataset: Path, folder: RunFolder, settings: PretrainSettings, texts: Texts, ranks: Ranks
) -> Materials:
    """Read the data set for the run in `folder`.

    Raises:
        DatasetError: There are fewer training tiles than parts and processes need.
        SettingsError: A step cannot be divided among parts and processes.
    """
    model = settings.architecture
    tokenizer, preprocess = Tokenizer.from_file(folder.tokenizer), Preprocess.from_file(folder.preprocess)
    train, val = (
        read_split(dataset, split, texts, tokenizer, image_size=model.image_size, max_tokens=model.max_tokens)
        for split in ("train", "val")
    )
    unreadable = tuple(sorted(open_tile_cache(dataset, model.image_size, tell=False).unreadable))

    def batches(tiles: TextedTiles, accumulate: int, min_segments: int | None) -> Batches:
        return Batches(
            tiles,
            tokenizer,
            preprocess,
            settings.masking,
            batch_size=step_tiles(settings.batch_size, len(tiles), accumulate, ranks.world),
            min_segments=min_segments,
            seed=settings.seed,
            bucket_batches=settings.texts.bucket_batches,
            accumulate=accumulate,
            rank=ranks.rank,
            world=ranks.world,
        )

    training = batches(train, settings.accumulate, settings.texts.min_segments)
    validates = can_validate(len(train), training.batch_size, len(val), settings, ranks)
    return Materials(
        tokenizer,
        preprocess,
        train=training,
        val=batches(val, 1, None) if validates else None,
        val_tiles=val,
        unreadable=unreadable,
    )


def can_validate(train: int, batch_size: int, val: int, settings: PretrainSettings, ranks: Ranks) -> bool:
    """Return whether there are enough validation tiles; say where there are few of either split."""
    validates = val >= max(2, ranks.world)
    if ranks.first and batch_size < settings.batch_size:
        _log.warning("only %d training tiles: every step takes %d", train, batch_size)
    if ranks.first and not validates:
        _log.warning("%d validation tiles: no validation, and the best weights are the last", val)
    return validates


def step_tiles(wanted: int, tiles: int, accumulate: int, world: int) -> int:
    """Return the tiles of a step: what is wanted, or as many as there are, shared out evenly.

    Raises:
        DatasetError: There are fewer tiles than parts and processes need.
        SettingsError: `wanted` cannot be divided among parts and processes.
    """
    shares = accumulate * world
    what = f"accumulate x processes = {accumulate} x {world}"
    if wanted % shares or wanted < 2 * accumulate:
        raise SettingsError(
            f"batch_size {wanted} cannot be divided into {what} equal shares of at least two tiles per part: "
            f"use --set batch_size={max(2, -(-wanted // shares)) * shares}"
        )
    size = min(wanted, tiles) // shares * shares
    if size < 2 * accumulate:
        raise DatasetError(
            f"{tiles} tiles are too few for {what}: use a smaller accumulate, or fewer processes"
        )
    return size


def _new_tokenizer(dataset: Path, settings: PretrainSettings, texts: Texts) -> Tokenizer:
    if settings.tokenizer:
        return Tokenizer.from_file(Path(settings.tokenizer))
    if settings.init.text:
        raise SettingsError("init.text needs the vocabulary of its weights: add --set tokenizer=VOCAB.TXT")
    return Tokenizer.train(training_texts(dataset, texts), settings.texts.vocab_size)
