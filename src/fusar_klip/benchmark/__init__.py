"""The benchmark: suites of tasks on checkpoints, with intervals, chance levels and reports (paper 4.3, 4.4).

It trains probes and fine-tuned copies, and changes no checkpoint. It never imports `pretrain` or `search`.
"""

from fusar_klip.benchmark.runner import BenchmarkSummary, benchmark

__all__ = ["BenchmarkSummary", "benchmark"]
