"""Training: data, state, step, loop, checkpoints, metrics, mesh."""
