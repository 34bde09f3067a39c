"""SAR scenes with ground truth, made from a seed: what runs where no data is at hand."""

from fusar_klip.simulate.simulate import SimulationSummary, simulate

__all__ = ["SimulationSummary", "simulate"]
