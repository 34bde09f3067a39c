"""The text versions that a run trains on: the one it started with, until a SCIO pass has made another.

SCIO itself is a later stage (`fusar_klip.scio`): `pretrain` is given its pass as an argument, a
`RefineTexts`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from fusar_klip.errors import CheckpointError, SettingsError
from fusar_klip.files import sha256
from fusar_klip.models import KlipNetwork, Preprocess, Tokenizer
from fusar_klip.models.network.queue import FeatureQueue
from fusar_klip.pretrain.data.dataset import with_text_version
from fusar_klip.pretrain.data.loaders import Loaders
from fusar_klip.pretrain.distributed import Ranks
from fusar_klip.pretrain.settings import ScioSettings
from fusar_klip.pretrain.stages import STAGES, StagePosition, stage_of
from fusar_klip.pretrain.tasks.klip_train_state import KlipTrainState


class RefinedTexts(Protocol):
    """The result of a SCIO pass."""

    @property
    def version(self) -> str:
        """The text version that holds the decisions."""

    @property
    def segments(self) -> int:
        """Segments that were judged."""

    @property
    def kept(self) -> int:
        """Segments that stay unchanged."""

    @property
    def noise(self) -> int:
        """Segments that are no longer in use."""

    @property
    def reconstructed(self) -> int:
        """Segments that were rewritten."""


class RefineTexts(Protocol):
    """A SCIO pass over a data set: `fusar_klip.scio.refine_texts`."""

    def __call__(
        self,
        dataset: Path,
        version: str,
        network: KlipNetwork,
        tokenizer: Tokenizer,
        preprocess: Preprocess,
        settings: ScioSettings,
        *,
        maker: Mapping[str, Any],
        queue: FeatureQueue | None,
        splits: Collection[str] | None,
        ranks: Ranks,
    ) -> RefinedTexts:
        """Screen and reconstruct the texts of `version`, and write the decisions as a new text version."""


@dataclass(frozen=True)
class TextVersions:
    """The texts of a step.

    Attributes:
        judged: The version that marks noise: the newest.
        shown: The version whose texts in use ITC and ITM see. In stage 2 it is the version from before the
            stage, with its noise.
    """

    judged: str
    shown: str

    def state(self, dataset: Path) -> dict[str, Any]:
        """Return what `from_state` needs: names and checksums."""
        return {"judged": self.judged, "shown": self.shown, "sha256": self._digests(dataset)}

    @classmethod
    def from_state(cls, state: dict[str, Any], dataset: Path) -> Self:
        """Return the versions of `state`.

        Raises:
            CheckpointError: One of them is missing, or its content has changed.
        """
        texts = cls(state["judged"], state["shown"])
        if texts._digests(dataset) != state["sha256"]:
            raise CheckpointError(
                f"the texts {texts.judged} or {texts.shown} of {dataset}, which SCIO made in this run, have "
                "changed: restore them, or give another --out"
            )
        return texts

    def at_stage_start(self, position: StagePosition) -> "TextVersions":
        """Return the texts of the first step of a stage: the decisions of the previous stage take effect."""
        return TextVersions(self.judged, self.judged) if position.is_first else self

    def _digests(self, dataset: Path) -> list[str]:
        paths = [dataset / "texts" / f"{version}.parquet" for version in (self.judged, self.shown)]
        return [sha256(path) if path.is_file() else "" for path in paths]


class ScioTexts:
    """The texts of a run, step by step, with SCIO's passes between steps.

    Args:
        dataset: The data set; each pass adds a text version to it.
        loaders: Their training batches show the texts.
        train_state: Its network judges and writes.
        refine_texts: SCIO's pass; not needed if `scio.enabled` is false.

    Raises:
        SettingsError: `scio.enabled` is true and there is no `refine_texts`.
    """

    def __init__(
        self, dataset: Path, loaders: Loaders, train_state: KlipTrainState, refine_texts: RefineTexts | None
    ) -> None:
        self._dataset, self._loaders, self._train_state = dataset, loaders, train_state
        self._settings = train_state.settings
        self._refine_texts = refine_texts
        if self._settings.scio.enabled and refine_texts is None:
            raise SettingsError(
                "scio.enabled needs SCIO's pass: call pretrain with refine_texts=fusar_klip.scio.refine_texts"
            )
        self._versions = TextVersions(self._settings.texts.version, self._settings.texts.version)

    def state(self) -> dict[str, Any]:
        """Return what `load_state` needs to resume exactly."""
        return self._versions.state(self._dataset)

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from `state`.

        Raises:
            CheckpointError: A text version is missing, or its content has changed.
        """
        self._show(TextVersions.from_state(state, self._dataset))

    def stage(self, step: int) -> dict[str, int]:
        """Return the number of the step's stage for the log; empty without SCIO."""
        return {"stage": STAGES.index(self._position(step).stage) + 1} if self._settings.scio.enabled else {}

    def runs_pass(self, step: int) -> bool:
        """Return whether a SCIO pass runs before `step`."""
        return self._position(step).refines

    def before_step(self, step: int) -> tuple[bool, dict[str, Any]]:
        """Run the SCIO pass that is due; return whether the texts have changed, and the pass's counts."""
        position = self._position(step)
        counts: dict[str, Any] = {}
        versions = self._versions.at_stage_start(position)
        if position.refines:
            versions, counts = self._refine(versions, position, step)
        if position.is_first:
            self._train_state.spike_detector.reset_window()
        return self._show(versions), counts

    def _position(self, step: int) -> StagePosition:
        return stage_of(step, self._loaders.train.steps_per_epoch, self._settings.scio)

    def _show(self, versions: TextVersions) -> bool:
        if versions == self._versions:
            return False
        self._versions = versions
        train = self._loaders.train
        train.change_texts(
            with_text_version(
                train.tiles,
                self._dataset,
                versions.judged,
                versions.shown,
                self._loaders.tokenizer,
                max_tokens=self._settings.architecture.max_tokens,
            )
        )
        return True

    def _refine(
        self, texts: TextVersions, position: StagePosition, step: int
    ) -> tuple[TextVersions, dict[str, Any]]:
        """Run a SCIO pass over the training texts.

        Stage 2 judges the whole texts each time, so that a segment that was marked as noise too early
        can return. Stage 3 continues from its own last version: reconstructions stay, and it tries again to
        reconstruct the remaining noise.

        The same weights, queue and texts give the same version, which is then found instead of made twice: a
        run that was interrupted between a pass and its next save resumes exactly.
        """
        train_state, scio = self._train_state, self._settings.scio
        screens = position.stage == "screen"
        parent = texts.shown if screens else texts.judged
        steps_of_pass = {"screen": scio.screen and screens, "reconstruct": scio.reconstruct and not screens}
        # Without the settings of the stages: a version is identified by what judged it.
        settings = ScioSettings.model_validate(
            scio.model_dump(include=set(ScioSettings.model_fields)) | steps_of_pass
        )
        assert self._refine_texts is not None
        with train_state.unsharded_network() as network:
            refined = self._refine_texts(
                self._dataset,
                parent,
                network,
                self._loaders.tokenizer,
                self._loaders.preprocess,
                settings,
                maker={
                    "verb": "pretrain",
                    "stage": position.stage,
                    "iteration": position.iteration,
                    "step": step,
                },
                queue=train_state.queue,
                splits=("train",),
                ranks=train_state.ranks,
            )
        counts = {
            "texts": refined.version,
            "scio_segments": refined.segments,
            "scio_kept": refined.kept,
            "scio_noise": refined.noise,
            "scio_reconstructed": refined.reconstructed,
        }
        return TextVersions(refined.version, parent if screens else refined.version), counts
