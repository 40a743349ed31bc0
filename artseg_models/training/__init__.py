"""Training that every method shares: settings, images at working resolution, the loop with its checkpoints."""
