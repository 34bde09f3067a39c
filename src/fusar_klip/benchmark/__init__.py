"""The benchmark: suites of tasks on models, with intervals, chance levels and reports (paper 4.3 to 4.5).

It trains probes and fine-tuned copies, and changes no checkpoint.
"""

from fusar_klip.benchmark.runner import BenchmarkSummary, benchmark

__all__ = ["BenchmarkSummary", "benchmark"]
