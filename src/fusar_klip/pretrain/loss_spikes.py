"""Which steps are left out: losses that are not finite, and spikes."""

import logging
import math
from collections import deque
from typing import Any

from fusar_klip.errors import SettingsError
from fusar_klip.pretrain.settings import GuardSettings

_log = logging.getLogger(__name__)

# A loss that hardly moves has next to no spread; a hundredth of its mean is not a spike.
_LEAST_SPREAD = 0.01


class Guard:
    """Watches the loss of each step.

    Args:
        settings: What a spike is, and how many are borne.
    """

    def __init__(self, settings: GuardSettings) -> None:
        self.settings = settings
        self.skipped = 0
        self._in_a_row = 0
        self._losses: deque[float] = deque(maxlen=settings.window)

    def passes(self, step: int, loss: float, gradient_norm: float) -> bool:
        """Return whether the step may change the weights.

        Raises:
            SettingsError: Too many steps in a row may not.
        """
        reason = self._objection(loss, gradient_norm)
        if reason is None:
            self._losses.append(loss)
            self._in_a_row = 0
            return True
        self.skipped += 1
        self._in_a_row += 1
        _log.warning("step %d is left out: %s", step + 1, reason)
        if self._in_a_row >= self.settings.patience:
            is_finite = math.isfinite(loss) and math.isfinite(gradient_norm)
            or_else = ", or go on with --resume and a higher guard.spike" if is_finite else ""
            raise SettingsError(
                f"{self._in_a_row} steps in a row were left out (the last: {reason}): start another run with "
                f"a lower optimizer.lr{or_else}"
            )
        return False

    def forget(self) -> None:
        """Compare with no earlier loss: what is learnt from has changed."""
        self._losses.clear()

    def state(self) -> dict[str, Any]:
        """Return what `load_state` needs to go on exactly."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row, "losses": list(self._losses)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.skipped, self._in_a_row = state["skipped"], state["in_a_row"]
        self._losses = deque(state["losses"], maxlen=self.settings.window)

    def _objection(self, loss: float, gradient_norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"its loss is {loss}"
        if not math.isfinite(gradient_norm):
            return f"its gradient's norm is {gradient_norm}"
        if self.settings.spike and len(self._losses) == self.settings.window:
            mean = math.fsum(self._losses) / len(self._losses)
            variance = math.fsum((one - mean) ** 2 for one in self._losses) / len(self._losses)
            limit = mean + self.settings.spike * max(math.sqrt(variance), _LEAST_SPREAD * abs(mean))
            if loss > limit:
                return f"its loss {loss:.3f} is a spike, over {limit:.3f}"
        return None
