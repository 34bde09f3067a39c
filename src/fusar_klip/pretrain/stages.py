"""Which stage of SCIO a step belongs to (paper 3.4, Algorithm 1), as a pure function of the step's number.

align        stage 1: ITC, ITM and MLM on the texts as they are
screen       stage 2: a pass marks noise; ITC and ITM see whole texts, MLM hides nothing that is noise
reconstruct  stage 3: a pass writes noise anew; all three losses see the texts in use

What the passes find is a text version; RUN/state keeps its name (`text_versions`).
"""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import Field

from fusar_klip.scio.settings import ScioSettings

Stage = Literal["align", "screen", "reconstruct"]
STAGES: tuple[Stage, ...] = get_args(Stage)


class StageSettings(ScioSettings):
    """SCIO's place in a run, and what its passes do: they screen in stage 2, and reconstruct in stage 3."""

    enabled: bool = False
    """Go through SCIO's stages; each pass writes a text version into DATASET/texts."""
    align_epochs: int = Field(default=12, ge=1)
    """Epochs of stage 1."""
    screen_epochs: int = Field(default=12, ge=0)
    """Epochs of stage 2; 0 leaves it out."""
    reconstruct_epochs: int = Field(default=12, ge=0)
    """Epochs of stage 3; 0 leaves it out."""
    every: Literal["epoch"] | Annotated[int, Field(ge=1)] = "epoch"
    """When a stage looks at the texts again: as it begins, and at each epoch or after so many steps."""
    max_iter: int = Field(default=1, ge=1)
    """Rounds of the three stages (Algorithm 1)."""

    @property
    def epochs(self) -> int:
        """Epochs of a whole run."""
        return self.max_iter * (self.align_epochs + self.screen_epochs + self.reconstruct_epochs)


@dataclass(frozen=True)
class Place:
    """Where a step stands among the stages.

    Attributes:
        iteration: The round, from 0.
        stage: The stage.
        opens: The step is the first of its stage.
        refines: The texts are looked at before this step.
    """

    iteration: int
    stage: Stage
    opens: bool
    refines: bool


def stage_of(step: int, steps_per_epoch: int, settings: StageSettings) -> Place:
    """Return the place of `step`, counted from 0."""
    if not settings.enabled:
        return Place(0, "align", step == 0, False)
    spans: list[tuple[Stage, int]] = [
        ("align", settings.align_epochs * steps_per_epoch),
        ("screen", settings.screen_epochs * steps_per_epoch),
        ("reconstruct", settings.reconstruct_epochs * steps_per_epoch),
    ]
    iteration, within = divmod(step, sum(steps for _, steps in spans))
    while within >= spans[0][1]:
        within -= spans.pop(0)[1]
    stage = spans[0][0]
    every = steps_per_epoch if settings.every == "epoch" else settings.every
    return Place(iteration, stage, within == 0, stage != "align" and within % every == 0)
