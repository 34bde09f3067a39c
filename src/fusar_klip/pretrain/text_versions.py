"""Which texts a run shows: the version it began with, until a pass of SCIO has made another."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fusar_klip.errors import CheckpointError
from fusar_klip.files import sha256
from fusar_klip.pretrain.data.dataset import with_version
from fusar_klip.pretrain.data.loaders import Materials
from fusar_klip.pretrain.stages import STAGES, Place, stage_of
from fusar_klip.pretrain.tasks.klip_train_state import Learner
from fusar_klip.scio import References, ScioSettings, refine_texts


@dataclass(frozen=True)
class TextVersions:
    """The texts of a step.

    Attributes:
        judged: The version that says what is noise: the newest.
        shown: The version whose texts in use ITC and ITM see. In stage 2 it is the one from before the stage,
            noise and all.
    """

    judged: str
    shown: str

    def state(self, dataset: Path) -> dict[str, Any]:
        """Return what `from_state` needs: the names, and what is in the files."""
        return {"judged": self.judged, "shown": self.shown, "sha256": self._digests(dataset)}

    @classmethod
    def from_state(cls, state: dict[str, Any], dataset: Path) -> Self:
        """Go on with the versions of `state`.

        Raises:
            CheckpointError: One of them is gone, or has another content.
        """
        texts = cls(state["judged"], state["shown"])
        if texts._digests(dataset) != state["sha256"]:
            raise CheckpointError(
                f"the texts {texts.judged} or {texts.shown} of {dataset}, which the run's SCIO made, have "
                "changed: bring them back as they were, or give another --out"
            )
        return texts

    def _digests(self, dataset: Path) -> list[str]:
        paths = [dataset / "texts" / f"{version}.parquet" for version in (self.judged, self.shown)]
        return [sha256(path) if path.is_file() else "" for path in paths]


def entered(texts: TextVersions, place: Place) -> TextVersions:
    """Return the texts as a stage opens: what the stage before has found is in use now."""
    return TextVersions(texts.judged, texts.judged) if place.opens else texts


class RunTexts:
    """The texts of a run, step by step: SCIO's place in the loop.

    Args:
        dataset: The data set; each pass adds a text version to it.
        materials: Whose training batches show the texts.
        learner: Whose network judges and writes.
    """

    def __init__(self, dataset: Path, materials: Materials, learner: Learner) -> None:
        self._dataset, self._materials, self._learner = dataset, materials, learner
        self._settings = learner.settings
        self._versions = TextVersions(self._settings.texts.version, self._settings.texts.version)

    def state(self) -> dict[str, Any]:
        """Return what `load_state` needs to go on exactly."""
        return self._versions.state(self._dataset)

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            CheckpointError: A text version is gone, or has another content.
        """
        self._show(TextVersions.from_state(state, self._dataset))

    def stage(self, step: int) -> dict[str, int]:
        """Return the number of the step's stage for the log; nothing without SCIO."""
        return {"stage": STAGES.index(self._place(step).stage) + 1} if self._settings.scio.enabled else {}

    def looks(self, step: int) -> bool:
        """Return whether SCIO makes a pass before `step`."""
        return self._place(step).refines

    def before(self, step: int) -> tuple[bool, dict[str, Any]]:
        """Do what SCIO does before `step`; return whether the texts are others now, and what a pass found."""
        place = self._place(step)
        found: dict[str, Any] = {}
        versions = entered(self._versions, place)
        if place.refines:
            versions, found = self._refined(versions, place, step)
        if place.opens:
            self._learner.guard.forget()
        return self._show(versions), found

    def _place(self, step: int) -> Place:
        return stage_of(step, self._materials.train.steps_per_epoch, self._settings.scio)

    def _show(self, versions: TextVersions) -> bool:
        if versions == self._versions:
            return False
        self._versions = versions
        train = self._materials.train
        longest = self._settings.architecture.max_tokens
        train.texts_changed(
            with_version(
                train.tiles,
                self._dataset,
                versions.judged,
                versions.shown,
                self._materials.tokenizer,
                max_tokens=longest,
            )
        )
        return True

    def _refined(self, texts: TextVersions, place: Place, step: int) -> tuple[TextVersions, dict[str, Any]]:
        """Let SCIO look at the training texts.

        Stage 2 judges the whole texts each time, so that what was called noise too early comes back. Stage 3
        goes on from its own last version: what it has rebuilt stays, what is still noise is tried again.

        The same weights, queue and texts give the same version, which is then found again: a run that was
        killed between a pass and its next save goes on exactly.
        """
        learner, scio = self._learner, self._settings.scio
        screens = place.stage == "screen"
        parent = texts.shown if screens else texts.judged
        asked = {"screen": scio.screen and screens, "reconstruct": scio.reconstruct and not screens}
        with learner.whole_network() as network:
            summary = refine_texts(
                self._dataset,
                parent,
                network,
                self._materials.tokenizer,
                self._materials.preprocess,
                # Without what belongs to the run: a version is made by what judged it.
                ScioSettings.model_validate(scio.model_dump(include=set(ScioSettings.model_fields)) | asked),
                maker={"verb": "pretrain", "stage": place.stage, "iteration": place.iteration, "step": step},
                references=References.of_queue(learner.queue) if learner.queue.count else None,
                splits=("train",),
                ranks=learner.ranks,
            )
        metrics = {
            "texts": summary.version,
            "scio_segments": summary.segments,
            "scio_kept": summary.kept,
            "scio_noise": summary.noise,
            "scio_reconstructed": summary.reconstructed,
        }
        return TextVersions(summary.version, parent if screens else summary.version), metrics
