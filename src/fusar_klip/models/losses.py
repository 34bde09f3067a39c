"""The three pretraining losses and the draw of hard negatives, as pure functions (paper 3.3, eqs. 4 to 6).

B batch, N candidates (batch and queue), Q queue, E embed_dim, T target tokens, V vocabulary. Features are
float and L2-normalised, so that a dot product is the paper's cosine similarity s(., .).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""The label of a position that does not count in `mlm_loss`."""


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
            soft_bn = F.softmax(momentum_query_be @ candidate_ne.T / temperature, dim=1)
            target_bn = alpha * soft_bn + (1 - alpha) * positive_bn
        log_probability_bn = F.log_softmax(query_be @ candidate_ne.T / temperature, dim=1)
        return -(target_bn * log_probability_bn).sum(1).mean()

    image_to_text = one_way(image_be, momentum_image_be, candidate_text_ne)
    text_to_image = one_way(text_be, momentum_text_be, candidate_image_ne)
    return (image_to_text + text_to_image) / 2


@torch.no_grad()
def hard_negatives(similarity_bn: Tensor, ids_b: Tensor, candidate_ids_n: Tensor) -> Tensor:
    """Draw for each row one candidate of another image, the likelier the more similar.

    Draws from torch's global generator. Weights are the row's softmax; where they are not finite or all
    zero, every candidate of another image is equally likely (decisions.md, "ITM negatives").

    Args:
        similarity_bn: Similarities over temperature.
        ids_b: int64, the image of each row.
        candidate_ids_n: int64, the image of each candidate; every row has a candidate of another image.

    Returns:
        (B,) int64, places among the candidates.
    """
    other_bn = ids_b[:, None] != candidate_ids_n[None, :]
    assert bool(other_bn.any(1).all()), "a row has no candidate of another image"
    weight_bn = F.softmax(similarity_bn.float().masked_fill(~other_bn, -torch.inf), dim=1)
    usable_b1 = weight_bn.isfinite().all(1, keepdim=True) & (weight_bn.sum(1, keepdim=True) > 0)
    weight_bn = torch.where(usable_b1, weight_bn, other_bn.float())
    return torch.multinomial(weight_bn, 1).squeeze(1)


def itm_loss(logits_b2: Tensor, matches_b: Tensor) -> Tensor:
    """Return the binary cross-entropy of match (1) against no match (0) (eq. 5), a scalar."""
    return F.cross_entropy(logits_b2.float(), matches_b)


def mlm_loss(logits_btv: Tensor, labels_bt: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of the masked spans' tokens (eq. 6), a scalar.

    Args:
        logits_btv: The decoder's prediction for each place, aligned with the labels.
        labels_bt: int64, `IGNORED` where there is nothing to predict.
    """
    return F.cross_entropy(logits_btv.flatten(0, 1).float(), labels_bt.flatten(), ignore_index=IGNORED)
