"""Who learns and teaches: how a model is named in a recipe, built, identified and kept."""
