"""The single-modal baselines (paper, table 4), MAE and MoCo v3: an image tower, tiles without texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusar_klip.errors import DatasetError
from fusar_klip.models import Preprocess, open_tile_cache
from fusar_klip.models.checkpoint import save_image_tower
from fusar_klip.pretrain.data.dataset import input_checksums, kept_tiles, measure_preprocess
from fusar_klip.pretrain.data.image_batches import (
    ImageTiles,
    MaskedBatches,
    ViewsBatches,
    read_image_tiles,
)
from fusar_klip.pretrain.data.loaders import can_validate, tiles_per_step
from fusar_klip.pretrain.data.sampler import StepBatches
from fusar_klip.pretrain.distributed import Ranks
from fusar_klip.pretrain.run_folder import RunFolder, writable_checkpoint
from fusar_klip.pretrain.settings import PretrainSettings
from fusar_klip.pretrain.tasks.image_only_train_states import MaeTrainState, MocoV3TrainState
from fusar_klip.pretrain.tasks.training_task import TaskSpec
from fusar_klip.pretrain.text_versions import RefineTexts

# Validation batches whose losses are averaged, as in `validation.py`.
_LOSS_BATCHES = 8


@dataclass(frozen=True)
class _Loaders:
    """Batches of both splits; `val` is None with too few tiles."""

    train: StepBatches[Any]
    val: StepBatches[Any] | None
    unreadable: tuple[str, ...]


def prepare(dataset: Path, folder: RunFolder, settings: PretrainSettings) -> dict[str, str]:
    """See `TaskSpec.prepare`.

    Raises:
        DatasetError: The data set is missing, or has fewer than two training tiles.
        SettingsError: The settings differ from the run's.
        CheckpointError: The data set has changed since the run started.
    """
    image_size = settings.architecture.image_size
    checksums = input_checksums(dataset, None, image_size)
    folder.check(settings, checksums)
    if folder.is_set_up():
        return checksums
    if (count := len(kept_tiles(dataset, "train", image_size))) < 2:
        raise DatasetError(f"{dataset} has {count} kept training tiles, and a step needs two: add scenes")
    measure_preprocess(dataset, image_size).save(folder.preprocess)
    return checksums


def _open_mae(
    dataset: Path,
    folder: RunFolder,
    settings: PretrainSettings,
    ranks: Ranks,
    refine_texts: RefineTexts | None,
) -> "ImageOnlyTask":
    patches = (settings.architecture.image_size // settings.architecture.patch_size) ** 2
    preprocess = Preprocess.from_file(folder.preprocess)

    def batches(tiles: ImageTiles, augment: bool, **options: int) -> MaskedBatches:
        return MaskedBatches(tiles, preprocess, settings.mae, patches, augment=augment, **options)

    loaders = _read_loaders(dataset, settings, ranks, batches)
    train_state = MaeTrainState(settings, ranks, resuming=folder.training.is_file())
    return ImageOnlyTask(train_state, loaders, ("val_loss",))


def _open_mocov3(
    dataset: Path,
    folder: RunFolder,
    settings: PretrainSettings,
    ranks: Ranks,
    refine_texts: RefineTexts | None,
) -> "ImageOnlyTask":
    preprocess = Preprocess.from_file(folder.preprocess)

    def batches(tiles: ImageTiles, augment: bool, **options: int) -> ViewsBatches:
        # MoCo v3 compares views, so validation draws them too, and the same ones every time.
        return ViewsBatches(tiles, preprocess, settings.mocov3, **options)

    loaders = _read_loaders(dataset, settings, ranks, batches)
    train_state = MocoV3TrainState(settings, ranks, resuming=folder.training.is_file())
    return ImageOnlyTask(train_state, loaders, ("val_loss", "val_match"))


def _read_loaders(
    dataset: Path,
    settings: PretrainSettings,
    ranks: Ranks,
    batches: Callable[..., StepBatches[Any]],
) -> _Loaders:
    """Read both splits.

    Raises:
        DatasetError: There are fewer training tiles than micro-batches and processes need.
        SettingsError: The batch size cannot be divided among micro-batches and processes.
    """
    image_size = settings.architecture.image_size
    train, val = (read_image_tiles(dataset, split, image_size) for split in ("train", "val"))

    def make(tiles: ImageTiles, accumulate: int, augment: bool) -> StepBatches[Any]:
        return batches(
            tiles,
            augment,
            batch_size=tiles_per_step(settings.batch_size, len(tiles), accumulate, ranks.world_size),
            seed=settings.seed,
            accumulate=accumulate,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )

    training = make(train, settings.accumulate, True)
    validates = can_validate(len(train), training.batch_size, len(val), settings, ranks)
    unreadable = tuple(sorted(open_tile_cache(dataset, image_size, tell=False).unreadable))
    return _Loaders(training, make(val, 1, False) if validates else None, unreadable)


class ImageOnlyTask:
    """A `TrainingTask` on tiles without texts.

    Args:
        train_state: Weights and optimizer.
        loaders: The batches.
        value_names: The names of the validation values.
    """

    def __init__(
        self, train_state: MaeTrainState | MocoV3TrainState, loaders: _Loaders, value_names: tuple[str, ...]
    ) -> None:
        self.train_state: MaeTrainState | MocoV3TrainState = train_state
        self._loaders, self._value_names = loaders, value_names

    @property
    def train(self) -> StepBatches[Any]:
        """The training batches."""
        return self._loaders.train

    @property
    def validates(self) -> bool:
        """Whether there are validation tiles."""
        return self._loaders.val is not None

    @property
    def unreadable(self) -> Sequence[str]:
        """tile_ids of the tiles that cannot be read and are skipped."""
        return self._loaders.unreadable

    def stage(self, step: int) -> dict[str, int]:
        """Return nothing: there are no stages."""
        return {}

    def runs_scio_pass(self, step: int) -> bool:
        """Return False: there are no texts."""
        return False

    def before_step(self, step: int) -> tuple[bool, dict[str, Any]]:
        """Do nothing: the tiles do not change."""
        return False, {}

    def validate(self) -> dict[str, float]:
        """Return the means over the first validation batches, with the same masks or views every time.

        `val_match` is the share of 2 x `val_batch` views whose nearest key (of `val_batch`) is their tile's.
        """
        batches = self._loaders.val
        assert batches is not None
        device = self.train_state.device
        steps = range(min(batches.steps_per_epoch, _LOSS_BATCHES))
        selected: list[Any] = [batches.micro_batches(step)[0].to(device) for step in steps]
        values = dict(zip(self._value_names, self.train_state.evaluate(selected), strict=True))
        return values | {"val_tiles": len(steps) * batches.batch_size, "val_batch": batches.batch_size}

    def save_weights(self, path: Path) -> None:
        """Write the image tower."""
        train_state = self.train_state
        if train_state.ranks.first:
            with writable_checkpoint(path):
                save_image_tower(
                    train_state.tower, train_state.settings.architecture, train_state.settings.objective, path
                )

    def state(self) -> dict[str, Any]:
        """Return nothing: the train state holds everything."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Do nothing: the train state holds everything."""


IMAGE_ONLY_TASKS: Mapping[str, TaskSpec] = {
    "mae": TaskSpec(prepare, _open_mae, best="val_loss", higher_is_better=False),
    "mocov3": TaskSpec(prepare, _open_mocov3, best="val_loss", higher_is_better=False),
}
"""The single-modal tasks, by `PretrainSettings.objective`."""
