"""How a model is trained: stage, loop, order of data, checkpoints."""
