"""The command line: one module a verb. `--help` imports neither torch nor transformers."""
