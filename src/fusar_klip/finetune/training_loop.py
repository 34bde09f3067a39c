"""The one fine-tuning loop of all benchmark tasks: AdamW, linear warm-up, decay, layer-wise rates.

It knows neither tasks nor data: a task hands over a module, the batches of an epoch and a loss. It computes
in float32; on a GPU, the losses in bfloat16 (autocast).
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
"""Gradients are clipped to this norm: a ViT at the paper's rate of 0.003 else leaves its start at once."""


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
    decay: Decay = "cosine"


def run_training(job: FinetuneJob[Batch], settings: TrainingSettings, description: str) -> list[float]:
    """Train `job.module` in place, and return the mean loss of each epoch."""
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
            rate = settings.learning_rate * rate_share(step, steps, warmup, job.decay)
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


def rate_share(step: int, steps: int, warmup: int, decay: Decay = "cosine") -> float:
    """Return the share of the rate at a step: linear up over `warmup` steps, then down as `decay` says."""
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
    """Return AdamW's groups: a timm tower's by layer, each lower one slower; the heads' at the full rate.

    As for ViTDet, the last block learns at `layer_decay` of the heads' rate, and so on down. Biases, norms
    and what the tower names are not decayed.
    """
    named: Any = tower
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        tower, weight_decay, tuple(named.no_weight_decay()), layer_decay=layer_decay
    )
    # timm counts from a classifier, which the tower has not: its last block stands one layer below the heads.
    groups = [{**group, "lr_scale": layer_decay * group["lr_scale"]} for group in groups]
    learnt = [p for head in heads for p in head.parameters() if p.requires_grad]
    plain = {"params": [p for p in learnt if p.ndim > 1], "weight_decay": weight_decay}
    undecayed = {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0}
    return [*groups, plain, undecayed]


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's draws within the block, and leave its random state as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def prefetch(make: Callable[[Key], Batch], keys: Iterable[Key]) -> Iterator[Batch]:
    """Yield `make` of each key, in order; a thread makes the next one while this one is used."""
    with ThreadPoolExecutor(1) as thread:
        pending = None
        for key in keys:
            following = thread.submit(make, key)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
