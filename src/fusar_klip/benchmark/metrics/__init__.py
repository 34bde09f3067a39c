"""Metrics of all tasks, with intervals and chance levels."""
