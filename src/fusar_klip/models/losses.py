"""The three pretraining losses and the hard-negative sampler, as pure functions (paper 3.3, eqs. 4 to 6).

B batch, N candidates (batch and queue), Q queue, E embed_dim, T target tokens, V vocabulary. Features are
float and L2-normalised, so that a dot product is the paper's cosine similarity s(., .).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_INDEX = -100
"""The label of a position that the losses ignore (torch's `ignore_index`)."""

POSITIVE_SHARE = 1 / 3
"""Share of positive pairs in ITM, where each has a negative text and a negative image: the matching score
of a model at chance level."""


def itc_loss(
    image_be: Tensor,
    text_be: Tensor,
    momentum_image_be: Tensor,
    momentum_text_be: Tensor,
    ids_b: Tensor,
    queue_image_qe: Tensor,
    queue_text_qe: Tensor,
    queue_ids_q: Tensor,
    *,
    temperature: Tensor | float,
    alpha: float,
) -> Tensor:
    """Return the symmetric InfoNCE loss (eq. 4) against batch and queue, a scalar.

    Targets are momentum-distilled (decisions.md, "alpha = 0.4"): alpha times the softmax of the momentum
    similarities plus (1 - alpha) times the positives. All candidates of the same image are positives in
    equal parts, never negatives.

    Args:
        image_be: Image features.
        text_be: Text features.
        momentum_image_be: The momentum tower's image features of the same batch.
        momentum_text_be: The momentum tower's text features of the same batch.
        ids_b: int64, the image of each row.
        queue_image_qe: Earlier momentum image features.
        queue_text_qe: Earlier momentum text features.
        queue_ids_q: int64, the image of each row of the queue.
        temperature: tau, over 0.
        alpha: Weight of the momentum targets, 0 to 1.
    """
    candidate_image_ne = torch.cat([momentum_image_be, queue_image_qe]).detach()
    candidate_text_ne = torch.cat([momentum_text_be, queue_text_qe]).detach()
    positive_bn = (ids_b[:, None] == torch.cat([ids_b, queue_ids_q])[None, :]).to(image_be.dtype)
    positive_bn = positive_bn / positive_bn.sum(1, keepdim=True)

    def one_way(query_be: Tensor, momentum_query_be: Tensor, candidate_ne: Tensor) -> Tensor:
        with torch.no_grad():
            soft_bn = F.softmax(cosine_similarities(momentum_query_be, candidate_ne) / temperature, dim=1)
            target_bn = alpha * soft_bn + (1 - alpha) * positive_bn
        log_probability_bn = F.log_softmax(cosine_similarities(query_be, candidate_ne) / temperature, dim=1)
        return -(target_bn * log_probability_bn).sum(1).mean()

    image_to_text = one_way(image_be, momentum_image_be, candidate_text_ne)
    text_to_image = one_way(text_be, momentum_text_be, candidate_image_ne)
    return (image_to_text + text_to_image) / 2


def cosine_similarities(query_be: Tensor, candidate_ne: Tensor) -> Tensor:
    """Return s(., .) of eq. 4, (B, N), in the features' own precision.

    Autocast would multiply in bfloat16, whose resolution of a cosine is 0.004: divided by the lowest
    temperature, equally similar candidates could differ by a factor of 50.
    """
    with torch.autocast(query_be.device.type, enabled=False):
        return query_be @ candidate_ne.T


@torch.no_grad()
def sample_hard_negatives(
    similarity_bn: Tensor,
    ids_b: Tensor,
    candidate_ids_n: Tensor,
    uniform_b: Tensor,
    fits_bn: Tensor | None = None,
    hard_share: float = 1.0,
) -> Tensor:
    """Sample for each row one candidate of another image; more similar candidates are more likely.

    Inverse transform sampling at `uniform_b`, candidates in the order of their ids: the sample depends
    neither on a generator's state nor on how a batch is divided among processes. With probability
    `hard_share` the weights are the row's softmax; otherwise, and where they are not finite or all zero,
    every candidate of another image is equally likely (decisions.md, "ITM negatives").

    Args:
        similarity_bn: Similarities over temperature.
        ids_b: int64, the image of each row.
        candidate_ids_n: int64, the image of each candidate.
        uniform_b: Drawn from [0, 1).
        fits_bn: bool, further candidates that are no negatives, such as equal texts of other images.
        hard_share: Probability, 0 to 1, of sampling by similarity.

    Returns:
        (B,) int64, indices of candidates; -1 where there is no negative.
    """
    order_n = candidate_ids_n.argsort(stable=True)
    other_bn = ids_b[:, None] != candidate_ids_n[order_n]
    if fits_bn is not None:
        other_bn = other_bn & ~fits_bn[:, order_n]
    logits_bn = similarity_bn[:, order_n].double().masked_fill(~other_bn, -torch.inf)
    weight_bn = F.softmax(logits_bn, dim=1)
    usable_b1 = weight_bn.isfinite().all(1, keepdim=True) & (weight_bn.sum(1, keepdim=True) > 0)
    even_bn = other_bn.double() / other_bn.sum(1, keepdim=True).clamp(min=1)
    mixed_bn = hard_share * weight_bn + (1 - hard_share) * even_bn
    total_bn = torch.where(usable_b1, mixed_bn, even_bn).cumsum(1)
    # The first index whose cumulative weight exceeds the mark; an index of weight 0 is never the first.
    mark_b1 = uniform_b[:, None].double() * total_bn[:, -1:]
    place_b = torch.searchsorted(total_bn, mark_b1, right=True).squeeze(1)
    return torch.where(other_bn.any(1), order_n[place_b.clamp(max=len(order_n) - 1)], -1)


def itm_loss(logits_b2: Tensor, matches_b: Tensor, count: Tensor | None = None) -> Tensor:
    """Return the binary cross-entropy of match (1) against no match (0) (eq. 5), a scalar.

    Args:
        logits_b2: Logits of (no match, match).
        matches_b: int64, 1, 0, or `IGNORE_INDEX`.
        count: Divisor of the sum; None for the number of pairs that are not ignored.
    """
    return _mean_cross_entropy(logits_b2, matches_b, count)


def mlm_loss(logits_kv: Tensor, labels_k: Tensor, count: Tensor | None = None) -> Tensor:
    """Return the mean negative log-likelihood of the masked spans' tokens (eq. 6), a scalar.

    It is 0 where there is nothing to predict.

    Args:
        logits_kv: The decoder's prediction for each place, aligned with the labels; (..., V).
        labels_k: int64, (...), `IGNORE_INDEX` where there is nothing to predict.
        count: Divisor of the sum; None for the number of labels that are not ignored.
    """
    return _mean_cross_entropy(logits_kv.flatten(0, -2), labels_k.flatten(), count)


def _mean_cross_entropy(logits_kv: Tensor, labels_k: Tensor, count: Tensor | None) -> Tensor:
    total = F.cross_entropy(logits_kv.float(), labels_k, ignore_index=IGNORE_INDEX, reduction="sum")
    if count is None:
        count = (labels_k != IGNORE_INDEX).sum()
    return total / count.clamp(min=1)
