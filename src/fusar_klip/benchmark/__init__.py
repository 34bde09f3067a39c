"""The benchmark: suites of tasks on checkpoints, with intervals, chance levels and reports (paper 4.3, 4.4).

It trains probes and fine-tuned copies, and changes no checkpoint. It never imports `pretrain` or `search`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusar_klip.benchmark.runner import BenchmarkSummary, benchmark

__all__ = ["BenchmarkSummary", "benchmark"]


def __getattr__(name: str) -> Any:
    """Import the runner, and torch with it, once it is asked for: the zoo's table needs neither."""
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from fusar_klip.benchmark import runner

    return getattr(runner, name)
