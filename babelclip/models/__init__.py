"""Models: towers, the `Clip` that joins them, and the readers of checkpoints."""
