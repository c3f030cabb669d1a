"""Commands about clusters and submitted jobs: each module has `add_arguments(parser)` and `run(arguments)`."""
