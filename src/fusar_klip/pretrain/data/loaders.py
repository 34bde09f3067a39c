"""The inputs of the training loop: training and validation batches, the tokenizer and the preprocessing."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.models import Preprocess, Tokenizer, open_tile_cache
from fusar_klip.pretrain.data.dataset import (
    ImageTextTiles,
    image_text_tiles,
    measure_preprocess,
    read_split,
    training_texts,
)
from fusar_klip.pretrain.data.image_text_batches import ImageTextBatches
from fusar_klip.pretrain.distributed import Ranks
from fusar_klip.pretrain.run_folder import RunFolder
from fusar_klip.pretrain.settings import PretrainSettings

_log = logging.getLogger(__name__)

Texts = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Loaders:
    """The inputs of the training loop.

    Attributes:
        tokenizer: The run's tokenizer.
        preprocess: The run's preprocessing.
        train: The training batches.
        val: The validation batches, with whole texts; None with too few tiles.
        val_tiles: The validation tiles.
        unreadable: tile_ids of the tiles that cannot be read and are skipped.
    """

    tokenizer: Tokenizer
    preprocess: Preprocess
    train: ImageTextBatches
    val: ImageTextBatches | None
    val_tiles: ImageTextTiles
    unreadable: tuple[str, ...]


def prepare_run(dataset: Path, folder: RunFolder, settings: PretrainSettings, texts: Texts) -> None:
    """Write the preprocessing and the tokenizer of a new run; a run that has them keeps them.

    Raises:
        DatasetError: There are fewer than two training tiles.
        SettingsError: `init.text` is given without a tokenizer.
    """
    if folder.is_set_up():
        return
    image_size = settings.architecture.image_size
    if (count := len(image_text_tiles(dataset, "train", texts, image_size))) < 2:
        raise DatasetError(
            f"{dataset} has {count} kept training tiles with a text, and a contrastive loss needs two: "
            "build it from more scenes, or describe it"
        )
    preprocess = measure_preprocess(dataset, image_size)
    tokenizer = _new_tokenizer(dataset, settings, texts)
    preprocess.save(folder.preprocess)
    tokenizer.save(folder.tokenizer)


def read_loaders(
    dataset: Path, folder: RunFolder, settings: PretrainSettings, texts: Texts, ranks: Ranks
) -> Loaders:
    """Read the data set for the run in `folder`.

    Raises:
        DatasetError: There are fewer training tiles than micro-batches and processes need.
        SettingsError: The batch size cannot be divided among micro-batches and processes.
    """
    model = settings.architecture
    tokenizer, preprocess = Tokenizer.from_file(folder.tokenizer), Preprocess.from_file(folder.preprocess)
    train, val = (
        read_split(dataset, split, texts, tokenizer, image_size=model.image_size, max_tokens=model.max_tokens)
        for split in ("train", "val")
    )
    unreadable = tuple(sorted(open_tile_cache(dataset, model.image_size, tell=False).unreadable))

    def batches(tiles: ImageTextTiles, accumulate: int, min_segments: int | None) -> ImageTextBatches:
        return ImageTextBatches(
            tiles,
            tokenizer,
            preprocess,
            settings.masking,
            batch_size=tiles_per_step(settings.batch_size, len(tiles), accumulate, ranks.world_size),
            min_segments=min_segments,
            seed=settings.seed,
            bucket_batches=settings.texts.bucket_batches,
            accumulate=accumulate,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )

    training = batches(train, settings.accumulate, settings.texts.min_segments)
    validates = can_validate(len(train), training.batch_size, len(val), settings, ranks)
    return Loaders(
        tokenizer,
        preprocess,
        train=training,
        val=batches(val, 1, None) if validates else None,
        val_tiles=val,
        unreadable=unreadable,
    )


def can_validate(train: int, batch_size: int, val: int, settings: PretrainSettings, ranks: Ranks) -> bool:
    """Return whether there are enough validation tiles; log a warning if either split has few tiles."""
    validates = val >= max(2, ranks.world_size)
    if ranks.first and batch_size < settings.batch_size:
        _log.warning("only %d training tiles: every step uses %d", train, batch_size)
    if ranks.first and not validates:
        _log.warning("%d validation tiles: no validation, and the best weights are the last", val)
    return validates


def tiles_per_step(batch_size: int, tiles: int, accumulate: int, world_size: int) -> int:
    """Return the tiles of a step: `batch_size`, or fewer in a small split, divisible among all processes.

    Raises:
        DatasetError: There are fewer tiles than micro-batches and processes need.
        SettingsError: `batch_size` cannot be divided among micro-batches and processes.
    """
    shares = accumulate * world_size
    divisor = f"accumulate x processes = {accumulate} x {world_size}"
    if batch_size % shares or batch_size < 2 * accumulate:
        raise SettingsError(
            f"batch_size {batch_size} cannot be divided into {divisor} equal shares of two tiles or more: "
            f"use --set batch_size={max(2, -(-batch_size // shares)) * shares}"
        )
    size = min(batch_size, tiles) // shares * shares
    if size < 2 * accumulate:
        raise DatasetError(
            f"{tiles} tiles are too few for {divisor}: use a smaller accumulate, or fewer processes"
        )
    return size


def _new_tokenizer(dataset: Path, settings: PretrainSettings, texts: Texts) -> Tokenizer:
    if settings.tokenizer:
        return Tokenizer.from_file(Path(settings.tokenizer))
    if settings.init.text:
        raise SettingsError("init.text needs the vocabulary of those weights: add --set tokenizer=VOCAB.TXT")
    return Tokenizer.train(training_texts(dataset, texts), settings.texts.vocab_size)
