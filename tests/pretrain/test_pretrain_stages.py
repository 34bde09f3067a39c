from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusar_klip.config import validate_settings
from fusar_klip.errors import SettingsError
from fusar_klip.pretrain import PretrainSettings
from fusar_klip.pretrain.stages import STAGES, ScioStageSettings, stage_of


def test_stages_of_the_paper() -> None:
    settings = ScioStageSettings(enabled=True)
    places = [stage_of(step, 10, settings) for step in range(360)]
    assert [(stage, len(list(run))) for stage, run in groupby(place.stage for place in places)] == [
        ("align", 120), ("screen", 120), ("reconstruct", 120)
    ]  # fmt: skip
    assert [step for step, place in enumerate(places) if place.is_first] == [0, 120, 240]
    assert [step for step, place in enumerate(places) if place.refines] == list(range(120, 360, 10))
    assert settings.epochs == 36


@given(
    st.integers(1, 3), st.integers(0, 3), st.integers(0, 3), st.integers(1, 3), st.integers(1, 7),
    st.one_of(st.just("epoch"), st.integers(1, 9)),
)  # fmt: skip
def test_every_step_has_its_stage(
    align: int, screen: int, reconstruct: int, rounds: int, per_epoch: int, every: str | int
) -> None:
    settings = ScioStageSettings.model_validate(
        {
            "enabled": True, "align_epochs": align, "screen_epochs": screen,
            "reconstruct_epochs": reconstruct, "max_iter": rounds, "every": every,
        }
    )  # fmt: skip
    total = settings.epochs * per_epoch
    places = [stage_of(step, per_epoch, settings) for step in range(total)]
    lengths = dict(zip(STAGES, (align, screen, reconstruct), strict=True))
    expected = [
        (number, stage)
        for number in range(rounds)
        for stage in STAGES
        for _ in range(lengths[stage] * per_epoch)
    ]
    assert [(place.iteration, place.stage) for place in places] == expected
    steps = per_epoch if every == "epoch" else int(every)
    within = 0
    for place, before in zip(places, [None, *places[:-1]], strict=True):
        opens = before is None or (place.iteration, place.stage) != (before.iteration, before.stage)
        within = 0 if opens else within + 1
        assert place.is_first == opens
        assert place.refines == (place.stage != "align" and within % steps == 0)


def test_without_scio_all_steps_are_alignment() -> None:
    places = [stage_of(step, 5, ScioStageSettings()) for step in range(200)]
    assert {place.stage for place in places} == {"align"}
    assert not any(place.refines for place in places)


def test_epochs_must_be_the_sum_of_the_stages() -> None:
    stages = {"enabled": True, "align_epochs": 1, "screen_epochs": 2, "reconstruct_epochs": 3, "max_iter": 2}
    assert validate_settings(PretrainSettings, {"epochs": 12, "scio": stages}).scio.epochs == 12
    with pytest.raises(
        SettingsError, match=r"stages have 12 epochs, but epochs is 36: set scio\.align_epochs"
    ):
        validate_settings(PretrainSettings, {"scio": stages})
