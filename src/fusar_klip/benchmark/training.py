"""The one fine-tuning loop of all benchmark tasks: AdamW, linear warm-up, cosine decay, layer-wise rates.

It knows neither tasks nor data: a task hands over a module, the batches of an epoch and a loss.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from fusar_klip.progress import track

Batch = TypeVar("Batch")

GRADIENT_NORM = 1.0
"""Gradients are clipped to this norm: a ViT at the paper's rate of 0.003 else leaves its start at once."""


class Schedule(Protocol):
    """The values that the loop reads from a row."""

    @property
    def epochs(self) -> int: ...  # noqa: D102
    @property
    def learning_rate(self) -> float: ...  # noqa: D102
    @property
    def warmup_epochs(self) -> float: ...  # noqa: D102


@dataclass(frozen=True)
class FinetuneJob(Generic[Batch]):
    """What a task hands to the loop."""

    module: nn.Module
    groups: Sequence[dict[str, Any]]
    """AdamW's parameter groups; `lr_scale` is each group's share of the learning rate."""
    batches: Callable[[int], Iterable[Batch]]
    """The batches of an epoch, by its number from 0."""
    steps_per_epoch: int
    loss: Callable[[Batch], Tensor]
    """Mean loss of a batch, a scalar with a gradient."""


def fit(job: FinetuneJob[Batch], schedule: Schedule, description: str) -> list[float]:
    """Train `job.module` in place, and return the mean loss of each epoch."""
    optimizer = torch.optim.AdamW(list(job.groups), lr=schedule.learning_rate)
    scales = [float(group.get("lr_scale", 1.0)) for group in job.groups]
    steps = schedule.epochs * job.steps_per_epoch
    warmup = round(schedule.warmup_epochs * job.steps_per_epoch)
    losses: list[float] = []
    step = 0
    job.module.train()
    for epoch in track(range(schedule.epochs), description):
        total, batches = 0.0, 0
        for batch in job.batches(epoch):
            rate = schedule.learning_rate * rate_share(step, steps, warmup)
            for group, scale in zip(optimizer.param_groups, scales, strict=True):
                group["lr"] = rate * scale
            loss = job.loss(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(job.module.parameters(), GRADIENT_NORM)
            optimizer.step()
            step += 1
            total, batches = total + loss.item(), batches + 1
        losses.append(total / batches)
    job.module.eval()
    return losses


def rate_share(step: int, steps: int, warmup: int) -> float:
    """Return the share of the learning rate at a step: linear up over `warmup` steps, then cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
