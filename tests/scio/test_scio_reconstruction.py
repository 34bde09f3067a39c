"""Reconstruction: what the decoder sees, and which of its outputs are used, with a scripted decoder."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from scio_networks import make_network

from fusar_klip.models import Tokenizer
from fusar_klip.models.tokenizer import UNKNOWN
from fusar_klip.scio import (
    ImageBatch,
    ImageTextScorer,
    Reconstruction,
    ScioSettings,
    SegmentedText,
    reconstruct,
)
from fusar_klip.scio.scoring import Negatives

TEXTS = ["Count: 3 ships", "Size: 40 m long", "Region: water", "Layout: a row"]


class Script:
    """A scorer whose decoder generates `answers` in turn, and that scores texts by the words they contain."""

    max_tokens = 64

    def __init__(
        self, tokenizer: Tokenizer, answers: Sequence[str | list[int]], likes: dict[str, float]
    ) -> None:
        self.tokenizer = tokenizer
        self.masked: list[str] = []
        self._answers = list(answers)
        self._likes = likes

    def _liking(self, ids: Sequence[int]) -> float:
        text = self.tokenizer.decode(ids)
        return sum(weight for word, weight in self._likes.items() if word in text)

    def itc_loss(self, texts: Sequence[Sequence[int]], rows: Sequence[int]) -> list[float]:
        return [5 - self._liking(ids) for ids in texts]

    def itc_loss_alone(self, texts: Sequence[Sequence[int]], rows: Sequence[int]) -> list[float]:
        return [-self._liking(ids) for ids in texts]

    def itm_score(self, texts: Sequence[Sequence[int]], rows: Sequence[int]) -> list[float]:
        return [0.5 + self._liking(ids) / 10 for ids in texts]

    def generate(self, texts: Sequence[Sequence[int]], rows: Sequence[int], **_: int) -> list[list[int]]:
        self.masked += [self.tokenizer.decode(ids) for ids in texts]
        written = []
        for _text in texts:
            answer = self._answers.pop(0)
            if isinstance(answer, str):
                answer = [*self.tokenizer.segments([answer], 60)[0], self.tokenizer.sep_id]
            written.append(answer)
        return written


def run(
    tokenizer: Tokenizer,
    answers: Sequence[Any],
    likes: dict[str, float],
    noise: tuple[int, ...],
    **changes: object,
) -> tuple[list[Reconstruction], Script]:
    script = Script(tokenizer, answers, likes)
    text = SegmentedText(tokenizer.segments(TEXTS, 64), (True,) * 4)
    (written,) = reconstruct(script, [text], [noise], ScioSettings.model_validate(changes))  # type: ignore[arg-type]
    return written, script


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([*TEXTS, "5 ships at a quay", "80 m long", "of the tile"] * 3, 400)


def test_the_decoder_sees_the_segment_name_and_the_other_segments(tokenizer: Tokenizer) -> None:
    (one,), script = run(tokenizer, ["5 ships at a quay"], {"5 ships": 1}, (0,))
    assert script.masked == ["count: [MASK]; size: 40 m long; region: water; layout: a row"]
    assert one == Reconstruction(
        0, "5 ships at a quay", None, pytest.approx(-1), pytest.approx(0.1), pytest.approx(0.6)
    )


def test_segments_are_reconstructed_one_at_a_time(tokenizer: Tokenizer) -> None:
    """The second is generated with the first in place, and must beat the text with it."""
    written, script = run(tokenizer, ["5 ships", "80 m long"], {"5 ships": 1, "80 m": -1}, (0, 1))
    assert script.masked == [
        "count: [MASK]; region: water; layout: a row",
        "count: 5 ships; size: [MASK]; region: water; layout: a row",
    ]
    assert [one.rejection for one in written] == [None, "ITC"]
    assert written[1].delta_itm is None


def test_a_rejected_reconstruction_leaves_the_text_unchanged(tokenizer: Tokenizer) -> None:
    written, script = run(tokenizer, ["5 ships", "80 m long"], {"5 ships": -1, "80 m": 1}, (0, 1))
    assert script.masked[1] == "size: [MASK]; region: water; layout: a row"
    assert [one.rejection for one in written] == ["ITC", None]


def test_both_tests_must_pass(tokenizer: Tokenizer) -> None:
    class Doubter(Script):
        def itm_score(self, texts: Sequence[Sequence[int]], rows: Sequence[int]) -> list[float]:
            return [0.5 for _ in texts]

    text = SegmentedText(tokenizer.segments(TEXTS, 64), (True,) * 4)
    script = Doubter(tokenizer, ["5 ships"], {"5 ships": 1})
    ((one,),) = reconstruct(script, [text], [(0,)], ScioSettings())  # type: ignore[arg-type]
    assert (one.rejection, one.delta_itm) == ("ITM", 0)


def test_baseline(tokenizer: Tokenizer) -> None:
    """Better than the text without noise, and worse than the original text."""
    likes = {"3 ships": 2.0, "5 ships": 1.0}
    assert run(tokenizer, ["5 ships"], likes, (0,))[0][0].rejection is None
    assert run(tokenizer, ["5 ships"], likes, (0,), baseline="original")[0][0].rejection == "ITC"


def test_alone_tests_the_new_segment_by_itself(tokenizer: Tokenizer) -> None:
    """The other segments do not matter; without the matching score the loss decides by itself."""
    likes = {"3 ships": 2.0, "5 ships": 1.0, "40 m": 9.0, "80 m": -1.0}
    alone = {"judge": "alone", "itm": "off"}
    written, script = run(tokenizer, ["5 ships", "80 m long"], likes, (0, 1), **alone)
    assert [one.rejection for one in written] == [None, "ITC"]
    assert [one.delta_itc for one in written] == [-1, 1]
    assert [(one.delta_itm, one.itm_score) for one in written] == [(None, None)] * 2
    assert script.masked[1].startswith("count: 5 ships")


def test_alone_needs_a_score_above_chance_level(tokenizer: Tokenizer) -> None:
    class Table(Script):
        def itm_score(self, texts: Sequence[Sequence[int]], rows: Sequence[int]) -> list[float]:
            scores = {"count: 5 ships": 0.4, "size: 80 m long": 0.3}
            return [scores[self.tokenizer.decode(ids)] for ids in texts]

    text = SegmentedText(tokenizer.segments(TEXTS, 64), (True,) * 4)
    script = Table(tokenizer, ["5 ships", "80 m long"], {"5 ships": 1, "80 m": 1})
    (written,) = reconstruct(script, [text], [(0, 1)], ScioSettings(judge="alone"))  # type: ignore[arg-type]
    assert [one.rejection for one in written] == [None, "ITM"]
    assert [one.delta_itm for one in written] == pytest.approx([0.4 - 1 / 3, 0.3 - 1 / 3])
    assert [one.itm_score for one in written] == [0.4, 0.3]


@pytest.mark.parametrize("judge", ["left_out", "alone"])
def test_reconstruction_margin(tokenizer: Tokenizer, judge: str) -> None:
    for margin, rejection in ((0.9, None), (1.0, "ITC")):
        (one,), _ = run(
            tokenizer, ["5 ships"], {"5 ships": 1}, (0,), judge=judge, reconstruction_margin=margin
        )
        assert one.rejection == rejection


def test_rejections_before_the_tests(tokenizer: Tokenizer) -> None:
    sep, unknown = tokenizer.sep_id, tokenizer.vocabulary.index(UNKNOWN)
    (ships,) = tokenizer.segments(["ships"], 60)
    for answer, rejection in [
        ([sep], "empty"),
        ([], "empty"),
        ([*tokenizer.segments([". , ;"], 60)[0], sep], "empty"),
        (ships, "no end"),
        ([*ships, unknown, sep], "unknown words"),
        ("ships ships ships", "repeats itself"),
        ("water of the tile of the tile of the tile", "repeats itself"),
        ("3 ships", "said already"),
        ("ships of the tile, 3 of the ships", None),
    ]:
        (one,), _ = run(tokenizer, [answer], {"ships of": 1}, (0,))
        assert one.rejection == rejection, answer


def test_a_text_of_noise_only_can_be_reconstructed(tokenizer: Tokenizer) -> None:
    written, script = run(tokenizer, ["5 ships", "80 m", "land", "ring"], {"5": 1}, (0, 1, 2, 3))
    assert script.masked[:2] == ["count: [MASK]", "count: 5 ships; size: [MASK]"]
    assert [one.rejection for one in written] == [None, "ITC", "ITC", "ITC"]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_randomly_initialised_network(beams: int) -> None:
    """Its texts are meaningless, but every step runs."""
    network, tokenizer = make_network(seed=1)
    images = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    negatives = Negatives(torch.eye(16), torch.eye(16), torch.arange(16))
    scorer = ImageTextScorer(
        network, tokenizer, ImageBatch(images, [20, 21, 22]), negatives, texts_per_batch=2
    )
    text = SegmentedText(tokenizer.segments(TEXTS, 64), (True,) * 4)
    written = reconstruct(scorer, [text] * 3, [(0, 2), (), (3,)], ScioSettings(beams=beams, max_new_tokens=6))
    assert [[one.index for one in of] for of in written] == [[0, 2], [], [3]]
