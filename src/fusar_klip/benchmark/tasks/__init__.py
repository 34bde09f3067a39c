"""The benchmark's tasks, one module each."""
