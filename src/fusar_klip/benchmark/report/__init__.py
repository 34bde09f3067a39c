"""The benchmark's report and its figures."""
