"""The baselines as the loop sees them: tiles without texts, one tower, and their own losses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusar_klip.errors import DatasetError
from fusar_klip.models import Preprocess, open_tile_cache
from fusar_klip.models.checkpoint import save_image_tower
from fusar_klip.pretrain.data.dataset import fingerprint, kept_tiles, measure_preprocess
from fusar_klip.pretrain.data.image_batches import (
    ImageTiles,
    MaskedBatches,
    ViewsBatches,
    read_image_tiles,
)
from fusar_klip.pretrain.data.loaders import can_validate, step_tiles
from fusar_klip.pretrain.data.sampler import StepBatches
from fusar_klip.pretrain.distributed import Ranks
from fusar_klip.pretrain.run_folder import RunFolder, writable_checkpoint
from fusar_klip.pretrain.settings import PretrainSettings
from fusar_klip.pretrain.tasks.image_only_train_states import MaeLearner, MocoV3Learner
from fusar_klip.pretrain.tasks.training_task import Objective

# Batches whose losses are averaged, as in `validation`.
_LOSS_BATCHES = 8


@dataclass(frozen=True)
class _Materials:
    """Batches of both splits; `val` is None where there are too few tiles."""

    train: StepBatches[Any]
    val: StepBatches[Any] | None
    unreadable: tuple[str, ...]


def begin(dataset: Path, folder: RunFolder, settings: PretrainSettings) -> dict[str, str]:
    """See `Objective.begin`.

    Raises:
        DatasetError: The data set is missing, or has fewer than two training tiles.
        SettingsError: The settings are others than the run's.
        CheckpointError: The data set has changed since the run began.
    """
    image_size = settings.architecture.image_size
    data = fingerprint(dataset, None, image_size)
    folder.check(settings, data)
    if folder.is_set_up():
        return data
    if (count := len(kept_tiles(dataset, "train", image_size))) < 2:
        raise DatasetError(f"{dataset} has {count} kept training tiles, and a step needs two: add scenes")
    measure_preprocess(dataset, image_size).save(folder.preprocess)
    return data


def _open_mae(dataset: Path, folder: RunFolder, settings: PretrainSettings, ranks: Ranks) -> "ImageCourse":
    patches = (settings.architecture.image_size // settings.architecture.patch_size) ** 2
    preprocess = Preprocess.from_file(folder.preprocess)

    def batches(tiles: ImageTiles, changes: bool, **options: int) -> MaskedBatches:
        return MaskedBatches(tiles, preprocess, settings.mae, patches, changes=changes, **options)

    materials = _read(dataset, settings, ranks, batches)
    learner = MaeLearner(settings, ranks, goes_on=folder.training.is_file())
    return ImageCourse(learner, materials, ("val_loss",))


def _open_mocov3(dataset: Path, folder: RunFolder, settings: PretrainSettings, ranks: Ranks) -> "ImageCourse":
    preprocess = Preprocess.from_file(folder.preprocess)

    def batches(tiles: ImageTiles, changes: bool, **options: int) -> ViewsBatches:
        # Views are what is compared: they are drawn in validation, too, and the same ones every time.
        return ViewsBatches(tiles, preprocess, settings.mocov3, **options)

    materials = _read(dataset, settings, ranks, batches)
    learner = MocoV3Learner(settings, ranks, goes_on=folder.training.is_file())
    return ImageCourse(learner, materials, ("val_loss", "val_match"))


def _read(
    dataset: Path,
    settings: PretrainSettings,
    ranks: Ranks,
    batches: Callable[..., StepBatches[Any]],
) -> _Materials:
    """Read both splits.

    Raises:
        DatasetError: There are fewer training tiles than parts and processes need.
        SettingsError: A step cannot be divided among parts and processes.
    """
    image_size = settings.architecture.image_size
    train, val = (read_image_tiles(dataset, split, image_size) for split in ("train", "val"))

    def of(tiles: ImageTiles, accumulate: int, changes: bool) -> StepBatches[Any]:
        return batches(
            tiles,
            changes,
            batch_size=step_tiles(settings.batch_size, len(tiles), accumulate, ranks.world),
            seed=settings.seed,
            accumulate=accumulate,
            rank=ranks.rank,
            world=ranks.world,
        )

    training = of(train, settings.accumulate, True)
    validates = can_validate(len(train), training.batch_size, len(val), settings, ranks)
    unreadable = tuple(sorted(open_tile_cache(dataset, image_size, tell=False).unreadable))
    return _Materials(training, of(val, 1, False) if validates else None, unreadable)


class ImageCourse:
    """A `Course` on tiles alone.

    Args:
        learner: What learns.
        materials: From what.
        values: What validation's values are called.
    """

    def __init__(
        self, learner: MaeLearner | MocoV3Learner, materials: _Materials, values: tuple[str, ...]
    ) -> None:
        self.learner: MaeLearner | MocoV3Learner = learner
        self._materials, self._values = materials, values

    @property
    def train(self) -> StepBatches[Any]:
        """The batches of training."""
        return self._materials.train

    @property
    def validates(self) -> bool:
        """Whether there are validation tiles."""
        return self._materials.val is not None

    @property
    def unreadable(self) -> Sequence[str]:
        """tile_ids that are left out."""
        return self._materials.unreadable

    def stage(self, step: int) -> dict[str, int]:
        """Return nothing: there is one stage."""
        return {}

    def looks_at_texts(self, step: int) -> bool:
        """Return False: there are none."""
        return False

    def before(self, step: int) -> tuple[bool, dict[str, Any]]:
        """Change nothing: the tiles stay the same."""
        return False, {}

    def validate(self) -> dict[str, float]:
        """Return the means over the first batches of validation, with the same masks or views every time.

        `val_match` is a share of 2 x `val_batch` views, each of which chooses among `val_batch` keys.
        """
        batches = self._materials.val
        assert batches is not None
        device = self.learner.device
        steps = range(min(batches.steps_per_epoch, _LOSS_BATCHES))
        chosen: list[Any] = [batches.at(step)[0].to(device) for step in steps]
        values = dict(zip(self._values, self.learner.image_kv(chosen), strict=True))
        return values | {"val_tiles": len(steps) * batches.batch_size, "val_batch": batches.batch_size}

    def save_weights(self, path: Path) -> None:
        """Write the image tower."""
        learner = self.learner
        if learner.ranks.first:
            with writable_checkpoint(path):
                save_image_tower(
                    learner.tower, learner.settings.architecture, learner.settings.objective, path
                )

    def state(self) -> dict[str, Any]:
        """Return nothing: all is the learner's."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on: all is the learner's."""


BASELINES: Mapping[str, Objective] = {
    "mae": Objective(begin, _open_mae, best="val_loss", higher_is_better=False),
    "mocov3": Objective(begin, _open_mocov3, best="val_loss", higher_is_better=False),
}
"""The baselines by the name of their objective."""
