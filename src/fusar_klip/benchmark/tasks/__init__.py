"""The benchmark's tasks: one module a task or family of tasks, and the registry that names them."""
