"""Images in, batches out: sources, safe decoding, and a model's preprocessing."""

from workbench.images.decoding import MEGAPIXELS, BadImage
from workbench.images.folders import SUFFIXES
from workbench.images.preprocessing import Preprocessing, normalisation_of, preprocessing_for
from workbench.images.sources import SAMPLES, Batch, Images, Source, open_images

__all__ = [
    "MEGAPIXELS",
    "SAMPLES",
    "SUFFIXES",
    "BadImage",
    "Batch",
    "Images",
    "Preprocessing",
    "Source",
    "normalisation_of",
    "open_images",
    "preprocessing_for",
]
