"""Distillation inside other libraries' training loops. Each needs that library, and is imported from its own module."""
