"""The metrics of a run: RUN/metrics.jsonl, TensorBoard, and throughput with MFU."""

import logging
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch.utils.flop_counter import FlopCounterMode

from fusar_klip.errors import SettingsError
from fusar_klip.pretrain.run_folder import RunFolder

_log = logging.getLogger(__name__)


class MetricsLog:
    """Writes one line per call to metrics.jsonl. With several processes only the first writes.

    Args:
        folder: The run folder.
        done: Steps in the saved state; lines of later steps are removed, because they will be written again.
        tensorboard: Also write RUN/tensorboard.
        writes: Whether this process writes.

    Raises:
        SettingsError: TensorBoard is requested but not installed.
    """

    def __init__(self, folder: RunFolder, done: int, *, tensorboard: bool, writes: bool) -> None:
        self._folder, self._writes = folder, writes
        self._board: Any = None
        if not writes:
            return
        if tensorboard:
            self._board = _open_board(folder, done)
        folder.drop_metrics_after(done)

    def add(self, values: Mapping[str, Any]) -> None:
        """Write one line; `values` contains `step`."""
        if not self._writes:
            return
        self._folder.append_metrics(values)
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)) and name != "step":
                    self._board.add_scalar(_group(name), value, values["step"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._board is not None:
            self._board.close()


def _open_board(folder: RunFolder, done: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise SettingsError(
            'tensorboard is not installed: pip install "fusar-klip[tensorboard]", or continue with --resume '
            "--set tensorboard=false"
        ) from None
    # TensorBoard hides the points of an interrupted run from this step on.
    return SummaryWriter(str(folder.path / "tensorboard"), purge_step=done + 1 if done else None)


def _group(name: str) -> str:
    """Return the name with its TensorBoard tab in front."""
    for group in ("val", "loss", "scio"):
        if name.startswith(group):
            return f"{group}/{name}"
    return f"run/{name}"


# Side of the matrices, and repetitions, of the matmul that measures a device: it takes tenths of a second.
_MATRIX_SIDE = {"cuda": 8192, "cpu": 1024}
_REPEATS = {"cuda": 20, "cpu": 3}


def peak_matmul_flops(device: torch.device) -> float:
    """Return the measured peak matmul throughput in FLOP/s: bfloat16 on a GPU, float32 on the CPU.

    Measured, because no kernel reaches the peak of a data sheet. The reference of `utilisation` (MFU).
    """
    side = _MATRIX_SIDE[device.type]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    # Random values: with zeros a GPU draws less power and clocks higher.
    matrix = torch.rand(side, side, device=device).to(dtype)
    best = float("inf")
    for _ in range(_REPEATS[device.type]):
        _synchronize(device)
        start = time.perf_counter()
        matrix @ matrix
        _synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def count_flops(work: Callable[[], object]) -> int:
    """Return the FLOPs of all matmuls and attentions in `work`, backward passes included."""
    # The counter does not see into compiled layers.
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


class Throughput:
    """Measures throughput and utilisation (MFU) from the time spent within steps.

    Args:
        samples: Tiles of a step, over all processes.
        flops: FLOPs of a step in this process.
        peak_flops: Result of `peak_matmul_flops`.
    """

    def __init__(self, samples: int, flops: int, peak_flops: float) -> None:
        self._samples, self._flops, self._peak_flops = samples, flops, peak_flops
        self._steps, self._seconds, self._start = 0, 0.0, 0.0
        self._last: dict[str, float] = {}

    def __enter__(self) -> None:
        """Begin a step."""
        self._start = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End a step."""
        self._seconds += time.perf_counter() - self._start
        self._steps += 1

    def read(self) -> dict[str, float]:
        """Return `samples_per_s` and `utilisation` (0 to 1) since the last call, and reset."""
        per_step = self._seconds / self._steps
        self._steps, self._seconds = 0, 0.0
        self._last = {
            "samples_per_s": round(self._samples / per_step, 1),
            "utilisation": round(self._flops / per_step / self._peak_flops, 4),
        }
        return self._last

    def __str__(self) -> str:
        """Return the last reading for the progress bar; empty before the first."""
        if not self._last:
            return ""
        return ", {samples_per_s:.0f} tiles/s, {utilisation:.0%} of peak matmul throughput".format(
            **self._last
        )


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
