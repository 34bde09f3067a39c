"""Each loss against a slow float64 reference written from the paper's equations."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fusar_klip.models.losses import IGNORED, hard_negatives, itc_loss, itm_loss, mlm_loss


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
    labels = torch.tensor([[1, 4, IGNORED, IGNORED], [0, 2, 3, IGNORED]])
    terms = [
        -math.log(math.exp(float(logits[b, t, labels[b, t]])) / sum(map(math.exp, logits[b, t].tolist())))
        for b in range(2)
        for t in range(4)
        if labels[b, t] != IGNORED
    ]
    assert float(mlm_loss(logits, labels)) == pytest.approx(sum(terms) / len(terms), rel=1e-6)


def test_hard_negatives_are_never_of_the_same_image() -> None:
    torch.manual_seed(0)
    ids, candidates = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 1, 0])
    for _ in range(50):
        drawn = hard_negatives(torch.randn(3, 4) * 10, ids, candidates)
        assert bool((candidates[drawn] != ids).all())


def test_hard_negatives_follow_the_softmax_of_the_similarity() -> None:
    torch.manual_seed(0)
    similarity = torch.tensor([[9.0, 0.0, math.log(3.0), -math.inf]]).expand(20_000, 4)
    drawn = hard_negatives(similarity, torch.zeros(20_000, dtype=torch.int64), torch.arange(4))
    share = torch.bincount(drawn, minlength=4) / 20_000
    assert share.tolist() == pytest.approx([0.0, 0.25, 0.75, 0.0], abs=0.015)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_hard_negatives_fall_back_to_uniform(broken: float) -> None:
    torch.manual_seed(0)
    similarity = torch.full((3000, 4), broken)
    drawn = hard_negatives(similarity, torch.zeros(3000, dtype=torch.int64), torch.arange(4))
    share = torch.bincount(drawn, minlength=4) / 3000
    assert share.tolist() == pytest.approx([0.0, 1 / 3, 1 / 3, 1 / 3], abs=0.04)
