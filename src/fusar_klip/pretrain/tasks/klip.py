"""The paper's objective as the loop sees it: tiles with texts, ITC, ITM and MLM, and SCIO's stages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusar_klip.models.checkpoint import save_weights
from fusar_klip.pretrain.data.batches import Batches
from fusar_klip.pretrain.data.dataset import fingerprint, read_segments
from fusar_klip.pretrain.data.loaders import read_materials, set_up
from fusar_klip.pretrain.distributed import Ranks
from fusar_klip.pretrain.run_folder import RunFolder, writable_checkpoint
from fusar_klip.pretrain.settings import PretrainSettings
from fusar_klip.pretrain.tasks.klip_train_state import Learner
from fusar_klip.pretrain.tasks.training_task import Objective
from fusar_klip.pretrain.text_versions import RunTexts
from fusar_klip.pretrain.validation import validate


def begin(dataset: Path, folder: RunFolder, settings: PretrainSettings) -> dict[str, str]:
    """See `Objective.begin`.

    Raises:
        DatasetError: The data set is missing, has no texts, or fewer than two training tiles.
        SettingsError: The settings are others than the run's.
        CheckpointError: The data set has changed since the run began.
    """
    texts = read_segments(dataset, settings.texts.version)
    data = fingerprint(dataset, settings.texts.version, settings.architecture.image_size)
    folder.check(settings, data)
    set_up(dataset, folder, settings, texts)
    return data


class VisionLanguage:
    """A `Course` on texted tiles.

    Args:
        dataset: The data set; each pass of SCIO adds a text version to it.
        folder: The run's.
        settings: The run's.
        ranks: The processes that learn together.
    """

    def __init__(self, dataset: Path, folder: RunFolder, settings: PretrainSettings, ranks: Ranks) -> None:
        texts = read_segments(dataset, settings.texts.version)
        self.materials = read_materials(dataset, folder, settings, texts, ranks)
        self.learner = Learner(settings, self.materials.tokenizer, ranks, goes_on=folder.training.is_file())
        self._texts = RunTexts(dataset, self.materials, self.learner)

    @property
    def train(self) -> Batches:
        """The batches of training."""
        return self.materials.train

    @property
    def validates(self) -> bool:
        """Whether there are validation tiles."""
        return self.materials.val is not None

    @property
    def unreadable(self) -> Sequence[str]:
        """tile_ids that are left out."""
        return self.materials.unreadable

    def stage(self, step: int) -> dict[str, int]:
        """Return the number of SCIO's stage; nothing without SCIO."""
        return self._texts.stage(step)

    def looks_at_texts(self, step: int) -> bool:
        """Return whether a pass of SCIO is due."""
        return self._texts.looks(step)

    def before(self, step: int) -> tuple[bool, dict[str, Any]]:
        """Let SCIO look at the texts where it is due."""
        return self._texts.before(step)

    def validate(self) -> dict[str, float]:
        """Return losses and recalls."""
        return validate(self.learner, self.materials)

    def save_weights(self, path: Path) -> None:
        """Write the whole network."""
        with self.learner.whole_network() as network:
            if self.learner.ranks.first:
                with writable_checkpoint(path):
                    save_weights(network, path)

    def state(self) -> dict[str, Any]:
        """Return the text versions."""
        return {"texts": self._texts.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with the text versions of `state`."""
        self._texts.load_state(state["texts"])


VISION_LANGUAGE = Objective(begin, VisionLanguage, best="val_recall", higher_is_better=True)
