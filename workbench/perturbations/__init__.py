"""Probes: images, or models, changed in a way that ought to matter little, or in a known way."""
