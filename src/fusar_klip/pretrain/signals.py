"""SIGINT and SIGTERM stop training between two steps, never within one; a SCIO pass is stopped at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether a signal has asked the run to stop."""

    def __init__(self) -> None:
        self.requested = False
        self.interrupts = False

    @contextmanager
    def immediately(self, on: bool) -> Iterator[None]:
        """If `on`, a signal interrupts this context at once: its code must be safe to interrupt anywhere."""
        self.interrupts = on
        try:
            if on and self.requested:
                raise KeyboardInterrupt
            yield
        finally:
            self.interrupts = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Yield a request that the first SIGINT or SIGTERM sets; a second signal interrupts at once.

    Python delivers signals to the main thread only: in another thread no signal is caught.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request.requested or request.interrupts:
            raise KeyboardInterrupt
        request.requested = True

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
