"""Texts written anew: by rules, from facts, by a masked language model, by translation there and back."""
