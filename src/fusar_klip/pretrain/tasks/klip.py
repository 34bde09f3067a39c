"""The paper's pretraining task: tiles with texts, ITC, ITM and MLM, and the stages of SCIO."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusar_klip.models.checkpoint import save_weights
from fusar_klip.pretrain.data.dataset import input_checksums, read_segments
from fusar_klip.pretrain.data.image_text_batches import ImageTextBatches
from fusar_klip.pretrain.data.loaders import prepare_run, read_loaders
from fusar_klip.pretrain.distributed import Ranks
from fusar_klip.pretrain.run_folder import RunFolder, writable_checkpoint
from fusar_klip.pretrain.settings import PretrainSettings
from fusar_klip.pretrain.tasks.klip_train_state import KlipTrainState
from fusar_klip.pretrain.tasks.training_task import TaskSpec
from fusar_klip.pretrain.text_versions import RefineTexts, ScioTexts
from fusar_klip.pretrain.validation import validate


def prepare(dataset: Path, folder: RunFolder, settings: PretrainSettings) -> dict[str, str]:
    """See `TaskSpec.prepare`.

    Raises:
        DatasetError: The data set is missing, has no texts, or fewer than two training tiles.
        SettingsError: The settings differ from the run's.
        CheckpointError: The data set has changed since the run started.
    """
    texts = read_segments(dataset, settings.texts.version)
    checksums = input_checksums(dataset, settings.texts.version, settings.architecture.image_size)
    folder.check(settings, checksums)
    prepare_run(dataset, folder, settings, texts)
    return checksums


class KlipTask:
    """A `TrainingTask` on tiles with texts.

    Args:
        dataset: The data set; each SCIO pass adds a text version to it.
        folder: The run folder.
        settings: The run's settings.
        ranks: The processes of the run.
        refine_texts: SCIO's pass; needed with `scio.enabled`.
    """

    def __init__(
        self,
        dataset: Path,
        folder: RunFolder,
        settings: PretrainSettings,
        ranks: Ranks,
        refine_texts: RefineTexts | None,
    ) -> None:
        texts = read_segments(dataset, settings.texts.version)
        self.loaders = read_loaders(dataset, folder, settings, texts, ranks)
        self.train_state = KlipTrainState(
            settings, self.loaders.tokenizer, ranks, resuming=folder.training.is_file()
        )
        self._texts = ScioTexts(dataset, self.loaders, self.train_state, refine_texts)

    @property
    def train(self) -> ImageTextBatches:
        """The training batches."""
        return self.loaders.train

    @property
    def validates(self) -> bool:
        """Whether there are validation tiles."""
        return self.loaders.val is not None

    @property
    def unreadable(self) -> Sequence[str]:
        """tile_ids of the tiles that cannot be read and are skipped."""
        return self.loaders.unreadable

    def stage(self, step: int) -> dict[str, int]:
        """Return the number of SCIO's stage; empty without SCIO."""
        return self._texts.stage(step)

    def runs_scio_pass(self, step: int) -> bool:
        """Return whether a SCIO pass is due."""
        return self._texts.runs_pass(step)

    def before_step(self, step: int) -> tuple[bool, dict[str, Any]]:
        """Run the SCIO pass that is due."""
        return self._texts.before_step(step)

    def validate(self) -> dict[str, float]:
        """Return losses and recalls on the validation tiles."""
        return validate(self.train_state, self.loaders)

    def save_weights(self, path: Path) -> None:
        """Write the whole network."""
        with self.train_state.unsharded_network() as network:
            if self.train_state.ranks.first:
                with writable_checkpoint(path):
                    save_weights(network, path)

    def state(self) -> dict[str, Any]:
        """Return the text versions."""
        return {"texts": self._texts.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resume with the text versions of `state`."""
        self._texts.load_state(state["texts"])


KLIP_TASK = TaskSpec(prepare, KlipTask, best="val_recall", higher_is_better=True)
