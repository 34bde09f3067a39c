"""Ctrl-C and SIGTERM end training between two steps, never within one; long work between them at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether somebody has asked to stop."""

    def __init__(self) -> None:
        self.made = False
        self.interrupts = False

    @contextmanager
    def at_once(self, on: bool) -> Iterator[None]:
        """If `on`, stop within what is done here, and not after it: it must be safe to end anywhere."""
        self.interrupts = on
        try:
            if on and self.made:
                raise KeyboardInterrupt
            yield
        finally:
            self.interrupts = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Yield a request that the first SIGINT or SIGTERM makes; a second one interrupts at once.

    Signals reach Python's main thread only: in another thread nothing is caught.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if request.made or request.interrupts:
            raise KeyboardInterrupt
        request.made = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
