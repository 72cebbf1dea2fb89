"""Attacks: bounded changes of the image, or of what happens inside a model, that do most harm."""
