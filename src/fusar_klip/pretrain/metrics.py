"""Where a run's numbers go: RUN/metrics.jsonl, and TensorBoard where it is wanted."""

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from fusar_klip.errors import SettingsError
from fusar_klip.pretrain.run_folder import RunFolder

_log = logging.getLogger(__name__)


class MetricsLog:
    """Writes one line per call. Of several processes the first alone writes.

    Args:
        folder: The run's.
        done: Steps that the saved state knows; lines of later ones are taken out, for they will come again.
        tensorboard: Also write RUN/tensorboard.
        writes: Whether this is the process that writes.

    Raises:
        SettingsError: TensorBoard is wanted and not installed.
    """

    def __init__(self, folder: RunFolder, done: int, *, tensorboard: bool, writes: bool) -> None:
        self._folder, self._writes = folder, writes
        self._board: Any = None
        if not writes:
            return
        if tensorboard:
            self._board = _open_board(folder, done)
        folder.forget_metrics_after(done)

    def add(self, values: Mapping[str, Any]) -> None:
        """Write one line; `values` holds `step`."""
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
            'tensorboard is not installed: pip install "fusar-klip[tensorboard]", or go on with --resume '
            "--set tensorboard=false"
        ) from None
    # The first step whose earlier points, of a run that was killed, TensorBoard shall hide.
    return SummaryWriter(str(folder.path / "tensorboard"), purge_step=done + 1 if done else None)


def _group(name: str) -> str:
    """Return the name with the tab that TensorBoard shows it under."""
    for group in ("val", "loss", "scio"):
        if name.startswith(group):
            return f"{group}/{name}"
    return f"run/{name}"
