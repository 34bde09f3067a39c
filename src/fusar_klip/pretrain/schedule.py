"""Rates as functions of the step: BLIP's recipe (decisions.md, "Optimiser recipe"), MoCo v3's momentum."""

import math

from fusar_klip.pretrain.settings import OptimizerSettings


def learning_rate(step: int, steps_per_epoch: int, settings: OptimizerSettings) -> float:
    """Return the rate of `step` (from 0): max(min_lr, lr * decay^epoch), warmed up linearly per step."""
    peak = max(settings.min_lr, settings.lr * settings.decay ** (step // steps_per_epoch))
    if step >= settings.warmup_steps:
        return peak
    return settings.warmup_lr + (peak - settings.warmup_lr) * step / settings.warmup_steps


def distillation_weight(step: int, steps_per_epoch: int, alpha: float) -> float:
    """Return alpha of `step`: from 0 up over the first epoch, for momentum targets start as noise."""
    return alpha * min(1.0, step / steps_per_epoch)


def rising_momentum(step: int, total_steps: int, start: float) -> float:
    """Return the momentum of `step`: from `start` to 1 along half a cosine (MoCo v3, section 4.1)."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * step / total_steps)) / 2
