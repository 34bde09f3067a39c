"""Each loss against a slow float64 reference written from the paper's equations."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fusar_klip.models.losses import IGNORE_INDEX, itc_loss, itm_loss, mlm_loss, sample_hard_negatives


def unit(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def reference_itc(image, text, image_m, text_m, ids, queue_image, queue_text, queue_ids, tau, alpha) -> float:
    """Eq. 4 in both directions, pair by pair, with ALBEF's targets."""
    all_ids = [*ids, *queue_ids]
    total = 0.0
    for queries, queries_m, candidates in (
        (image, image_m, [*text_m, *queue_text]),
        (text, text_m, [*image_m, *queue_image]),
    ):
        for i in range(len(ids)):
            scores = [math.exp(float(np.dot(queries[i], c)) / tau) for c in candidates]
            soft = [math.exp(float(np.dot(queries_m[i], c)) / tau) for c in candidates]
            positives = [float(other == ids[i]) for other in all_ids]
            for score, weight, positive in zip(scores, soft, positives, strict=True):
                target = alpha * weight / sum(soft) + (1 - alpha) * positive / sum(positives)
                total -= target * math.log(score / sum(scores)) / len(ids)
    return total / 2


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("queued", [0, 5])
def test_itc_is_equation_4(alpha: float, queued: int) -> None:
    g = torch.Generator().manual_seed(3)
    image, text, image_m, text_m = (unit(g, 4, 6) for _ in range(4))
    queue_image, queue_text = unit(g, queued, 6), unit(g, queued, 6)
    # Tile 7 stands twice in the batch, and tile 2 in the queue too.
    ids, queue_ids = torch.tensor([7, 2, 7, 5]), torch.tensor([2, 9, 2, 11, 5])[:queued]
    arrays = [t.numpy() for t in (image, text, image_m, text_m)]
    expected = reference_itc(
        *arrays, ids.tolist(), queue_image.numpy(), queue_text.numpy(), queue_ids.tolist(), 0.07, alpha
    )
    value = itc_loss(
        image, text, image_m, text_m, ids, queue_image, queue_text, queue_ids, temperature=0.07, alpha=alpha
    )
    assert float(value) == pytest.approx(expected, abs=1e-12)


def test_itc_without_extras_is_the_symmetric_info_nce() -> None:
    g = torch.Generator().manual_seed(0)
    image, text = unit(g, 5, 8), unit(g, 5, 8)
    none = torch.empty(0, 8, dtype=torch.float64)
    value = itc_loss(
        image, text, image, text, torch.arange(5), none, none, torch.empty(0, dtype=torch.int64),
        temperature=0.1, alpha=0.0,
    )  # fmt: skip
    logits = image @ text.T / 0.1
    expected = (F.cross_entropy(logits, torch.arange(5)) + F.cross_entropy(logits.T, torch.arange(5))) / 2
    assert float(value) == pytest.approx(float(expected), abs=1e-12)


def test_under_autocast_itc_is_as_exact_as_without() -> None:
    """At the least temperature, a bfloat16 product of the features would be off by several units."""
    g = torch.Generator().manual_seed(0)
    image, text = unit(g, 6, 32).float(), unit(g, 6, 32).float()
    none, nobody = torch.empty(0, 32), torch.empty(0, dtype=torch.int64)

    def loss() -> torch.Tensor:
        ids = torch.arange(6)
        return itc_loss(image, text, image, text, ids, none, none, nobody, temperature=0.001, alpha=0.4)

    with torch.autocast("cpu", torch.bfloat16):
        rounded = loss()
    assert torch.equal(rounded, loss())


def test_a_queue_entry_of_the_same_image_attracts_and_another_repels() -> None:
    g = torch.Generator().manual_seed(1)
    image, text, queued = unit(g, 2, 8), unit(g, 2, 8), unit(g, 1, 8)

    def pull(queue_id: int) -> float:
        """How much a step of descent turns image 0 towards the queued text."""
        query = image.clone().requires_grad_()
        itc_loss(
            query, text, image, text, torch.arange(2), queued, queued, torch.tensor([queue_id]),
            temperature=0.5, alpha=0.0,
        ).backward()  # fmt: skip
        assert query.grad is not None
        return -float(query.grad[0] @ queued[0])

    assert pull(0) > pull(7)


def test_itc_gives_no_gradient_to_momentum_and_queue() -> None:
    g = torch.Generator().manual_seed(1)
    image, text, image_m, text_m, queue_image, queue_text = (unit(g, 3, 8).requires_grad_() for _ in range(6))
    ids = torch.arange(3)
    temperature = torch.tensor(0.07, dtype=torch.float64, requires_grad=True)
    itc_loss(
        image,
        text,
        image_m,
        text_m,
        ids,
        queue_image,
        queue_text,
        ids + 3,
        temperature=temperature,
        alpha=0.4,
    ).backward()
    assert image.grad is not None
    assert text.grad is not None
    assert temperature.grad is not None
    assert image_m.grad is None
    assert text_m.grad is None
    assert queue_image.grad is None
    assert queue_text.grad is None


def test_itm_is_equation_5() -> None:
    logits = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([1, 0, 0, 1, 1, 0])
    expected = 0.0
    for row, match in zip(logits.tolist(), y.tolist(), strict=True):
        p = math.exp(row[1]) / (math.exp(row[0]) + math.exp(row[1]))
        expected += -(match * math.log(p) + (1 - match) * math.log(1 - p)) / len(logits)
    assert float(itm_loss(logits, y)) == pytest.approx(expected, rel=1e-6)


def test_mlm_is_equation_6_over_the_masked_tokens_alone() -> None:
    logits = torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 4, IGNORE_INDEX, IGNORE_INDEX], [0, 2, 3, IGNORE_INDEX]])
    terms = [
        -math.log(math.exp(float(logits[b, t, labels[b, t]])) / sum(map(math.exp, logits[b, t].tolist())))
        for b in range(2)
        for t in range(4)
        if labels[b, t] != IGNORE_INDEX
    ]
    assert float(mlm_loss(logits, labels)) == pytest.approx(sum(terms) / len(terms), rel=1e-6)


def test_losses_leave_out_what_is_ignored_and_divide_by_what_they_are_told() -> None:
    logits = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([1, IGNORE_INDEX, 0, IGNORE_INDEX])
    assert float(itm_loss(logits, y)) == pytest.approx(float(itm_loss(logits[[0, 2]], y[[0, 2]])))
    assert float(itm_loss(logits, y, torch.tensor(8.0))) == pytest.approx(float(itm_loss(logits, y)) / 4)
    # A batch in which nothing is hidden has no loss, not nan.
    assert float(mlm_loss(logits, torch.full((4,), IGNORE_INDEX))) == 0
    assert float(mlm_loss(logits[:0], y[:0])) == 0


def reference_negative(similarity: list[float], own: int, ids: list[int], uniform: float) -> int:
    """The inverse of the cumulated softmax over the candidates of other images, in the order of their ids."""
    others = [place for place in sorted(range(len(ids)), key=ids.__getitem__) if ids[place] != own]
    weights = [math.exp(similarity[place]) for place in others]
    for count in range(1, len(others) + 1):
        if sum(weights[:count]) > uniform * sum(weights):
            return others[count - 1]
    raise AssertionError


def test_hard_negatives_are_the_inverse_of_the_cumulated_softmax() -> None:
    g = torch.Generator().manual_seed(0)
    similarity, uniform = 4 * torch.randn(200, 7, generator=g), torch.rand(200, generator=g)
    ids = torch.randint(0, 5, (200,), generator=g)
    candidates = torch.tensor([3, 0, 4, 1, 3, 2, 0])
    drawn = sample_hard_negatives(similarity, ids, candidates, uniform)
    expected = [
        reference_negative(row, own, candidates.tolist(), u)
        for row, own, u in zip(similarity.tolist(), ids.tolist(), uniform.tolist(), strict=True)
    ]
    assert drawn.tolist() == expected
    assert bool((candidates[drawn] != ids).all())


def test_hard_negatives_do_not_depend_on_the_order_of_the_candidates() -> None:
    g = torch.Generator().manual_seed(0)
    similarity, uniform = torch.randn(50, 9, generator=g), torch.rand(50, generator=g)
    ids, candidates, order = torch.arange(50) % 9, torch.arange(9), torch.randperm(9, generator=g)
    drawn = sample_hard_negatives(similarity, ids, candidates, uniform)
    moved = sample_hard_negatives(similarity[:, order], ids, candidates[order], uniform)
    assert torch.equal(candidates[drawn], candidates[order][moved])


def test_hard_negatives_follow_the_softmax_of_the_similarity() -> None:
    similarity = torch.tensor([[9.0, 0.0, math.log(3.0), -math.inf]]).expand(4000, 4)
    uniform = torch.arange(4000) / 4000
    drawn = sample_hard_negatives(similarity, torch.zeros(4000, dtype=torch.int64), torch.arange(4), uniform)
    share = torch.bincount(drawn, minlength=4) / 4000
    assert share.tolist() == pytest.approx([0.0, 0.25, 0.75, 0.0], abs=0.001)


@pytest.mark.parametrize("hard_share", [0.0, 0.25, 0.5])
def test_a_share_of_the_negatives_is_drawn_whatever_the_similarity(hard_share: float) -> None:
    similarity = torch.tensor([[9.0, 0.0, math.log(3.0), -math.inf]]).expand(4000, 4)
    fits = torch.tensor([False, False, False, True]).expand(4000, 4)
    uniform = torch.arange(4000) / 4000
    ids = torch.zeros(4000, dtype=torch.int64)
    drawn = sample_hard_negatives(similarity, ids, torch.arange(4), uniform, fits, hard_share)
    share = torch.bincount(drawn, minlength=4) / 4000
    expected = [0.0, *(hard_share * p + (1 - hard_share) * 0.5 for p in (0.25, 0.75)), 0.0]
    assert share.tolist() == pytest.approx(expected, abs=0.001)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_hard_negatives_fall_back_to_uniform(broken: float) -> None:
    similarity = torch.full((3000, 4), broken)
    uniform = torch.arange(3000) / 3000
    drawn = sample_hard_negatives(similarity, torch.zeros(3000, dtype=torch.int64), torch.arange(4), uniform)
    share = torch.bincount(drawn, minlength=4) / 3000
    assert share.tolist() == pytest.approx([0.0, 1 / 3, 1 / 3, 1 / 3], abs=0.001)


def test_the_largest_and_the_smallest_draw_choose_a_candidate_that_counts() -> None:
    similarity = torch.tensor([[-200.0, 0.0, 0.0, -200.0, 5.0]]).expand(2, 5)
    uniform = torch.tensor([0.0, float(np.nextafter(np.float32(1), np.float32(0)))])
    drawn = sample_hard_negatives(similarity, torch.tensor([4, 4]), torch.arange(5), uniform)
    assert drawn[1] == 2
    assert drawn[0] in (0, 1)


def test_without_another_image_there_is_no_hard_negative() -> None:
    drawn = sample_hard_negatives(
        torch.zeros(3, 3), torch.tensor([5, 5, 5]), torch.tensor([5, 5, 5]), torch.rand(3)
    )
    assert drawn.tolist() == [-1, -1, -1]


def test_what_fits_is_no_hard_negative() -> None:
    fits = torch.tensor([[False, True, False, True], [True, True, True, True]])
    uniform = torch.arange(1000) / 1000
    for row, expected in ((0, {2}), (1, {-1})):
        drawn = sample_hard_negatives(
            torch.zeros(1000, 4),
            torch.zeros(1000, dtype=torch.int64),
            torch.arange(4),
            uniform,
            fits[row].expand(1000, 4),
        )
        assert set(drawn.tolist()) == expected
