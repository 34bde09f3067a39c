"""How fast a run is: samples a second, and the share of the device's matrix rate that the model uses."""

import time
from collections.abc import Callable
from types import TracebackType

import torch
from torch.utils.flop_counter import FlopCounterMode

# The side of the matrices that are multiplied to measure a device, and how often: tenths of a second.
_MATRIX = {"cuda": 8192, "cpu": 1024}
_REPEATS = {"cuda": 20, "cpu": 3}


def matrix_rate(device: torch.device) -> float:
    """Return the FLOPs a second of one large matrix product: bfloat16 on a GPU, float32 on the CPU.

    Measured, not looked up: a chip's printed peak is not reached by any kernel.
    """
    side = _MATRIX[device.type]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    # Not zeros: a GPU that draws less current clocks higher.
    matrix = torch.rand(side, side, device=device).to(dtype)
    best = float("inf")
    for _ in range(_REPEATS[device.type]):
        _finish(device)
        began = time.perf_counter()
        matrix @ matrix
        _finish(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def count_flops(work: Callable[[], object]) -> int:
    """Return the FLOPs of the matrix products and attentions of `work`, backward passes among them."""
    # Compiled layers would hide from the count.
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


class Pace:
    """A clock of steps that stands still between them.

    Args:
        device: What to wait for.
        samples: Tiles of a step, over all processes.
        flops: FLOPs of a step in this process.
        rate: Of `matrix_rate`.
    """

    def __init__(self, device: torch.device, samples: int, flops: int, rate: float) -> None:
        self._device, self._samples, self._flops, self._rate = device, samples, flops, rate
        self._steps, self._seconds, self._began = 0, 0.0, 0.0
        self._last: dict[str, float] = {}

    def __enter__(self) -> None:
        """Begin a step."""
        self._began = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End a step."""
        self._seconds += time.perf_counter() - self._began
        self._steps += 1

    def read(self) -> dict[str, float]:
        """Return `samples_per_s` and `utilisation` (0 to 1) since the last reading, and begin anew."""
        per_step = self._seconds / self._steps
        self._steps, self._seconds = 0, 0.0
        self._last = {
            "samples_per_s": round(self._samples / per_step, 1),
            "utilisation": round(self._flops / per_step / self._rate, 4),
        }
        return self._last

    def __str__(self) -> str:
        """Return the last reading for people; nothing before the first."""
        if not self._last:
            return ""
        return ", {samples_per_s:.0f} tiles/s, {utilisation:.0%} of the matrix rate".format(**self._last)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
