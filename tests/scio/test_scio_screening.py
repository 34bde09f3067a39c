"""Screening against a literal Algorithm 1, and the acceptance of T' with given losses."""

import math
import random
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scio_networks import make_network

from fusar_klip.models import KlipNetwork, Tokenizer
from fusar_klip.models.network.queue import FeatureQueue
from fusar_klip.scio import (
    ImageBatch,
    ImageTextScorer,
    Negatives,
    ScioSettings,
    ScreeningResult,
    SegmentedText,
    refine_batch,
    screen,
)

Made = tuple[KlipNetwork, Tokenizer]
WORDS = ["ship", "quay", "field", "north", "south", "runway", "3", "40", "m", "of", "the", "bright", "water"]


def make_texts(tokenizer: Tokenizer, count: int, seed: int) -> list[SegmentedText]:
    """Texts of one to eight segments of random words."""
    draw = random.Random(seed)
    texts = []
    for _ in range(count):
        segments = [
            f"Field{i}: {' '.join(draw.choices(WORDS, k=draw.randint(1, 6)))}"
            for i in range(draw.randint(1, 8))
        ]
        texts.append(SegmentedText(tokenizer.segments(segments, 64), (True,) * len(segments)))
    return texts


def make_negatives(network: KlipNetwork, count: int, seed: int) -> Negatives:
    generator = torch.Generator().manual_seed(seed)
    image, text = (
        torch.nn.functional.normalize(
            torch.randn(count, network.settings.embed_dim, generator=generator), dim=-1
        )
        for _ in range(2)
    )
    return Negatives(image, text, torch.arange(count))


@torch.inference_mode()
def literal_loss(
    made: Made, image: torch.Tensor, image_id: int, ids: Sequence[int], negatives: Negatives
) -> float:
    """Eq. 4 of one pair in both directions; entries of the own image are not negatives."""
    network, tokenizer = made
    image_e = network.image_features(network.image_tokens(image[None]))[0].double()
    text_e = network.text_features(*tokenizer.pad([list(ids)]))[0].double()
    tau = float(network.temperature)
    own = math.exp(float(image_e @ text_e) / tau)
    others = [q for q in range(len(negatives.ids_q)) if int(negatives.ids_q[q]) != image_id]
    texts = sum(math.exp(float(image_e @ negatives.text_qe[q].double()) / tau) for q in others)
    images = sum(math.exp(float(negatives.image_qe[q].double() @ text_e) / tau) for q in others)
    return (-math.log(own / (own + texts)) - math.log(own / (own + images))) / 2


@torch.inference_mode()
def literal_score(made: Made, image: torch.Tensor, ids: Sequence[int]) -> float:
    """The p of eq. 5 of one pair."""
    network, tokenizer = made
    memory = network.image_kv(network.image_tokens(image[None]))
    return float(network.match_logits(*tokenizer.pad([list(ids)]), memory).softmax(1)[0, 1])


def literal_noise(
    text: SegmentedText, loss: Callable[[list[int]], float], score: Callable[[list[int]], float]
) -> list[int]:
    """Phase 2 of Algorithm 1 with the acceptance of decisions.md, one evaluation at a time."""
    everything = list(range(len(text.segments)))
    if len(everything) == 1:
        return []
    whole_loss, whole_score = loss(everything), score(everything)
    gain = {}
    for j in everything:
        rest = [i for i in everything if i != j]
        delta = loss(rest) - whole_loss
        if delta < 0 and score(rest) - whole_score > 0:
            gain[j] = delta
    noise = sorted(gain, key=lambda j: gain[j])
    if len(noise) == len(everything):
        noise.pop()
    while noise:
        left = [i for i in everything if i not in noise]
        if loss(left) < whole_loss and score(left) > whole_score:
            break
        noise.pop()
    return sorted(noise)


@pytest.mark.parametrize("fusion_layers", [None, 1])
def test_decisions_equal_those_of_the_literal_algorithm(fusion_layers: int | None) -> None:
    made = make_network(seed=3, fusion_layers=fusion_layers, text_depth=2)
    network, tokenizer = made
    images = torch.randn(14, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    texts, negatives = make_texts(tokenizer, 14, seed=5), make_negatives(network, 20, seed=2)
    scorer = ImageTextScorer(network, tokenizer, ImageBatch(images, range(14)), negatives, texts_per_batch=7)
    found = screen(scorer, texts, ScioSettings())
    verdicts = set()
    for row, (text, screening) in enumerate(zip(texts, found, strict=True)):

        def ids(indices: list[int], text: SegmentedText = text) -> list[int]:
            return tokenizer.join(text.segments[i] for i in indices)

        def loss(indices: list[int], row: int = row) -> float:
            return literal_loss(made, images[row], row, ids(indices), negatives)

        def score(indices: list[int], row: int = row) -> float:
            return literal_score(made, images[row], ids(indices))

        assert list(screening.noise) == literal_noise(text, loss, score)
        verdicts.update(i in screening.noise for i in text.used)
        everything = list(text.used)
        for i, delta in screening.delta_itc.items():
            rest = [other for other in everything if other != i]
            assert delta == pytest.approx(loss(rest) - loss(everything), abs=2e-5)
        assert screening.delta_itm.keys() == {p for p, delta in screening.delta_itc.items() if delta < 0}
        for i, delta in screening.delta_itm.items():
            rest = [other for other in everything if other != i]
            assert delta == pytest.approx(score(rest) - score(everything), abs=2e-5)
        if screening.itm_score is not None:
            assert screening.itm_score == pytest.approx(score(everything), abs=2e-5)
    assert verdicts == {True, False}


def test_an_image_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network, tokenizer = make_network(seed=0)
    calls: list[str] = []
    for name in ("image_tokens", "image_kv"):
        work = getattr(KlipNetwork, name)

        def counted(*arguments: object, name: str = name, work: Callable[..., object] = work) -> object:
            calls.append(name)
            return work(*arguments)

        monkeypatch.setattr(KlipNetwork, name, counted)
    images = torch.randn(6, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    texts, negatives = make_texts(tokenizer, 6, seed=1), make_negatives(network, 9, seed=2)
    scorer = ImageTextScorer(network, tokenizer, ImageBatch(images, range(6)), negatives, texts_per_batch=5)
    refined = refine_batch(scorer, texts, ScioSettings(max_new_tokens=6))
    assert any(one.reconstructions for one in refined)
    assert calls == ["image_tokens", "image_kv"]


def test_a_pair_does_not_depend_on_its_batch() -> None:
    network, tokenizer = make_network(seed=0)
    images = torch.randn(6, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    texts, negatives = make_texts(tokenizer, 6, seed=1), make_negatives(network, 9, seed=2)
    together = screen(
        ImageTextScorer(network, tokenizer, ImageBatch(images, range(6)), negatives), texts, ScioSettings()
    )
    for row, text in enumerate(texts):
        scorer = ImageTextScorer(network, tokenizer, ImageBatch(images[row : row + 1], [row]), negatives)
        (alone,) = screen(scorer, [text], ScioSettings())
        assert alone.noise == together[row].noise
        assert alone.delta_itc == pytest.approx(together[row].delta_itc, abs=1e-5)


def test_the_own_image_is_not_a_negative() -> None:
    network, tokenizer = make_network(seed=0)
    images = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    ids = tokenizer.encode("ships at a quay", 64)
    negatives = make_negatives(network, 5, seed=2)
    alone = ImageTextScorer(
        network,
        tokenizer,
        ImageBatch(images, [99]),
        Negatives(negatives.image_qe[:4], negatives.text_qe[:4], torch.arange(4)),
    )
    with_own = ImageTextScorer(network, tokenizer, ImageBatch(images, [4]), negatives)
    assert with_own.itc_loss([ids], [0]) == pytest.approx(alone.itc_loss([ids], [0]))
    only_own = ImageTextScorer(
        network, tokenizer, ImageBatch(images, [0]), Negatives(*(t[:1] for t in vars(negatives).values()))
    )
    # Without negatives the loss is 0, and leaving out cannot lower it.
    assert only_own.itc_loss([ids], [0]) == [0.0]


@torch.inference_mode()
def test_alone_compares_a_segment_with_an_uninformative_text() -> None:
    network, tokenizer = make_network(seed=0)
    images = torch.randn(5, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    image_be = network.image_features(network.image_tokens(images)).double()
    # Each image against the others: what fits one better fits another worse.
    rivals = image_be[torch.arange(9) % 5].float()
    texts, negatives = make_texts(tokenizer, 5, seed=1), Negatives(rivals, rivals, torch.arange(9))
    scorer = ImageTextScorer(network, tokenizer, ImageBatch(images, range(5)), negatives, texts_per_batch=3)
    found = screen(scorer, texts, ScioSettings(judge="alone", itm="off"))
    tau, signs = float(network.temperature), set()
    for row, (text, screening) in enumerate(zip(texts, found, strict=True)):
        assert screening.delta_itm == {}
        assert screening.itm_score is None
        for i, delta in screening.delta_itc.items():
            alone = tokenizer.pad([tokenizer.join([text.segments[i]])])
            text_e = network.text_features(*alone)[0].double()
            others = [negatives.image_qe[q].double() for q in range(9) if q != row]
            candidates = torch.stack([image_be[row], *others])
            loss = -torch.log_softmax(candidates @ text_e / tau, 0)[0]
            assert delta == pytest.approx(math.log(9) - float(loss), abs=2e-5)
            signs.add(delta < 0)
        against = sorted(p for p, delta in screening.delta_itc.items() if delta < 0)
        if len(against) < len(text.used):
            assert list(screening.noise) == against
        assert len(screening.noise) < len(text.used)
    assert signs == {True, False}


def test_negatives_of_a_queue_are_a_copy() -> None:
    queue = FeatureQueue(4, 2)
    queue.enqueue(torch.eye(2), torch.eye(2), torch.tensor([7, 8]))
    negatives = Negatives.of_queue(queue)
    queue.enqueue(torch.ones(4, 2), torch.ones(4, 2), torch.arange(4))
    assert negatives.ids_q.tolist() == [7, 8]
    assert torch.equal(negatives.image_qe, torch.eye(2))


class Table:
    """A scorer with random losses and scores per set of segments; segment i of row r has the id 100 r + i."""

    max_tokens = 64

    def __init__(self, seed: int, tilt: float) -> None:
        self.tokenizer = self
        self._seed, self._tilt = seed, tilt

    def join(self, segments: Sequence[list[int]]) -> list[int]:
        return [token for segment in segments for token in segment]

    def loss(self, ids: Sequence[int]) -> float:
        return random.Random(f"itc {self._seed} {sorted(ids)}").random() + self._tilt * len(ids)

    def score(self, ids: Sequence[int]) -> float:
        return random.Random(f"itm {self._seed} {sorted(ids)}").random() - self._tilt * len(ids)

    def itc_loss(self, texts: Sequence[Sequence[int]], rows: Sequence[int]) -> list[float]:
        return [self.loss(ids) for ids in texts]

    def itc_loss_alone(self, texts: Sequence[Sequence[int]], rows: Sequence[int]) -> list[float]:
        return [self.loss(ids) - 0.5 for ids in texts]

    def itm_score(self, texts: Sequence[Sequence[int]], rows: Sequence[int]) -> list[float]:
        return [self.score(ids) for ids in texts]


def screened(table: Table, counts: Sequence[int], **changes: object) -> list[ScreeningResult]:
    texts = [
        SegmentedText([[100 * row + i] for i in range(count)], (True,) * count)
        for row, count in enumerate(counts)
    ]
    return screen(table, texts, ScioSettings.model_validate(changes))  # type: ignore[arg-type]


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.05, 0.5]),
    st.lists(st.integers(1, 8), min_size=1, max_size=3),
)
def test_any_losses_give_the_decisions_of_the_literal_algorithm(
    seed: int, tilt: float, counts: list[int]
) -> None:
    table = Table(seed, tilt)
    for row, (count, found) in enumerate(zip(counts, screened(table, counts), strict=True)):

        def ids(indices: Sequence[int], row: int = row) -> list[int]:
            return [100 * row + i for i in indices]

        text = SegmentedText([[100 * row + i] for i in range(count)], (True,) * count)
        expected = literal_noise(text, lambda p: table.loss(ids(p)), lambda p: table.score(ids(p)))
        assert list(found.noise) == expected
        assert len(found.noise) < count


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 8))
def test_itm_off(seed: int, count: int) -> None:
    table = Table(seed, 0.05)
    (found,) = screened(table, [count], itm="off")
    text = SegmentedText([[i] for i in range(count)], (True,) * count)
    # A score that always rises confirms everything.
    expected = literal_noise(text, table.loss, lambda indices: -len(indices))
    assert list(found.noise) == expected
    assert found.delta_itm == {}


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 8))
def test_alone_is_confirmed_by_the_score_of_the_segment(seed: int, count: int) -> None:
    table = Table(seed, 0.0)
    (found,) = screened(table, [count], judge="alone", itm_margin=0.1)
    against = {p for p in range(count) if table.loss([p]) > 0.5}
    assert {p for p, delta in found.delta_itc.items() if delta < 0} == against
    assert found.delta_itm == {p: 1 / 3 - table.score([p]) for p in against}
    confirmed = {p for p in against if table.score([p]) < 1 / 3 - 0.1}
    if len(confirmed) < count:
        assert set(found.noise) == confirmed
    assert len(found.noise) < count
    assert found.itm_score is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"itm": "set"}, "use itm=segment or itm=off"),
        ({"baseline": "original"}, "remove baseline=original"),
        ({"itm_margin": 0.34}, "use less than 1/3"),
    ],
)
def test_settings_that_contradict_alone(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ScioSettings.model_validate({"judge": "alone", **change})


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**6), st.integers(2, 8))
def test_itm_set_accepts_the_longest_text_that_passes(seed: int, count: int) -> None:
    table = Table(seed, 0.2)
    (found,) = screened(table, [count], itm="set")
    everything = list(range(count))
    order = sorted((p for p in everything if found.delta_itc[p] < 0), key=lambda p: found.delta_itc[p])
    order = order[: count - 1]
    wins = [
        n
        for n in range(1, len(order) + 1)
        if table.loss([p for p in everything if p not in order[:n]]) < table.loss(everything)
        and table.score([p for p in everything if p not in order[:n]]) > table.score(everything)
    ]
    assert found.noise == tuple(sorted(order[: max(wins, default=0)]))
    assert set(found.delta_itm) == set(found.noise)


def test_margins_and_scores_for_all() -> None:
    table = Table(4, 0.2)
    (free,), (strict,) = screened(table, [8]), screened(table, [8], itc_margin=10.0)
    assert free.noise
    assert strict.noise == ()
    (scored,) = screened(table, [8], itm_for_all=True)
    assert scored.noise == free.noise
    assert scored.delta_itm.keys() == set(range(8))


def test_earlier_noise_is_not_part_of_the_text() -> None:
    table = Table(3, 0.1)
    text = SegmentedText([[0], [1], [2], [3]], (True, False, True, True))
    (found,) = screen(table, [text], ScioSettings())  # type: ignore[arg-type]
    assert found.delta_itc.keys() == {0, 2, 3}
    assert 1 not in found.noise
