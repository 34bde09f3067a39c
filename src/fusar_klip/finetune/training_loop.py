"""The fine-tuning loop of all tasks: AdamW, linear warm-up, decay, layer-wise learning rates.

The loop is independent of task and data: a `FinetuneJob` gives it a module, the batches of an epoch and a
loss. Weights are float32; on a GPU the loss is computed under bfloat16 autocast.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]
from torch import Tensor, nn

from fusar_klip.finetune.settings import Decay, TrainingSettings
from fusar_klip.progress import track

Batch = TypeVar("Batch")
Key = TypeVar("Key")

MILESTONES = (3 / 4, 11 / 12)
POLY_POWER = 0.9

GRADIENT_NORM = 1.0
"""Gradients are clipped to this norm: a ViT at the paper's rate of 0.003 diverges without it."""


@dataclass(frozen=True)
class FinetuneJob(Generic[Batch]):
    """What the loop trains, on which batches, and by which loss."""

    module: nn.Module
    groups: Sequence[dict[str, Any]]
    """AdamW's parameter groups; `lr_scale` is each group's share of the learning rate."""
    batches: Callable[[int], Iterable[Batch]]
    """The batches of an epoch, by its number from 0."""
    steps_per_epoch: int
    loss: Callable[[Batch], Tensor]
    """Mean loss of a batch, a scalar with a gradient."""
    decay: Decay = "cosine"


def run_training(job: FinetuneJob[Batch], settings: TrainingSettings, description: str) -> list[float]:
    """Train `job.module` in place, and return the mean loss of each epoch.

    Args:
        job: The module, its batches and its loss.
        settings: The schedule.
        description: The text of the progress bar.
    """
    optimizer = torch.optim.AdamW(list(job.groups), lr=settings.learning_rate)
    scales = [float(group.get("lr_scale", 1.0)) for group in job.groups]
    steps = settings.epochs * job.steps_per_epoch
    warmup = round(settings.warmup_epochs * job.steps_per_epoch)
    losses: list[float] = []
    step = 0
    device = next(job.module.parameters()).device.type
    job.module.train()
    for epoch in track(range(settings.epochs), description):
        total, batches = 0.0, 0
        for batch in job.batches(epoch):
            rate = settings.learning_rate * lr_factor(step, steps, warmup, job.decay)
            for group, scale in zip(optimizer.param_groups, scales, strict=True):
                group["lr"] = rate * scale
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
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


def lr_factor(step: int, steps: int, warmup: int, decay: Decay = "cosine") -> float:
    """Return the learning-rate factor of a step: a linear warm-up of `warmup` steps, then the decay."""
    if step < warmup:
        return (step + 1) / warmup
    match decay:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
        case "multistep":
            return float(0.1 ** sum(step >= share * steps for share in MILESTONES))
        case "poly":
            return float((1 - (step - warmup) / max(1, steps - warmup)) ** POLY_POWER)


def parameter_groups(
    tower: nn.Module, heads: Sequence[nn.Module], weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups: a timm tower's by layer, and the heads' at the full learning rate.

    As in ViTDet, the last block has `layer_decay` times the heads' rate, the block below `layer_decay` times
    that, and so on. Biases, norms and the tower's `no_weight_decay` parameters have no weight decay.
    """
    named: Any = tower
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        tower, weight_decay, tuple(named.no_weight_decay()), layer_decay=layer_decay
    )
    # timm counts from a classifier, which the tower lacks: its last block is one layer below the heads.
    groups = [{**group, "lr_scale": layer_decay * group["lr_scale"]} for group in groups]
    parameters = [p for head in heads for p in head.parameters() if p.requires_grad]
    decayed = {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay}
    undecayed = {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}
    return [*groups, decayed, undecayed]


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's random numbers within the block, and restore their state after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def prefetch(make_batch: Callable[[Key], Batch], keys: Iterable[Key]) -> Iterator[Batch]:
    """Yield `make_batch(key)` of each key, in order; a thread prepares the next batch meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        pending = None
        for key in keys:
            following = thread.submit(make_batch, key)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
