"""What a model shows for one batch, by name."""
