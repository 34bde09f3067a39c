"""The stage of SCIO that a step belongs to (paper 3.4, Algorithm 1), as a pure function of the step number.

align        stage 1: ITC, ITM and MLM on the original texts
screen       stage 2: a pass marks noise; ITC and ITM see the whole texts, MLM masks no noise
reconstruct  stage 3: a pass reconstructs noise; all three losses see the texts in use

A pass writes its decisions as a text version; RUN/state keeps its name (`text_versions`).
"""

from dataclasses import dataclass
from typing import Literal, get_args

from fusar_klip.pretrain.settings import ScioStageSettings

Stage = Literal["align", "screen", "reconstruct"]
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True)
class StagePosition:
    """The position of a step within the stages.

    Attributes:
        iteration: The round, from 0.
        stage: The stage.
        is_first: The step is the first of its stage.
        refines: A SCIO pass runs before this step.
    """

    iteration: int
    stage: Stage
    is_first: bool
    refines: bool


def stage_of(step: int, steps_per_epoch: int, settings: ScioStageSettings) -> StagePosition:
    """Return the position of `step`, counted from 0."""
    if not settings.enabled:
        return StagePosition(0, "align", step == 0, False)
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
    return StagePosition(iteration, stage, within == 0, stage != "align" and within % every == 0)
