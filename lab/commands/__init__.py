"""The kernel's commands: each module has `add_arguments(parser)` and `run(arguments) -> exit code`."""
