"""Common corruptions of photographs (Hendrycks & Dietterich, ICLR 2019, arXiv 1903.12261).

The pictures come from the package corrupt-tta, which follows ImageNet-C without its outdated
dependencies. Motion blur and spatter are its own, so errors are compared with those of a baseline
model on the same pictures, never with published tables.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

BENCHMARK = (
    "gaussian_noise", "shot_noise", "impulse_noise",
    "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "brightness",
    "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
"""The 15 corruptions over which mCE is a mean: noise, blur, weather, digital."""

EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""The four that were kept for tuning; never part of mCE."""

NAMES = BENCHMARK + EXTRA
SEVERITIES = (1, 2, 3, 4, 5)
MADE_FOR = 224
"""Side in pixels of the pictures that the severities were chosen for."""

_IMPULSES = (0.03, 0.06, 0.09, 0.17, 0.27)  # share of values, by severity
_RANDOM = threading.Lock()


def chosen(names: str | Sequence[str]) -> tuple[str, ...]:
    """The corruptions that "none", "all" or a list of names stands for, in the order of `NAMES`.

    Raises:
        ValueError: for an unknown name.
    """
    if isinstance(names, str):
        names = (names,)
    for name in names:
        if name not in (*NAMES, "all", "none"):
            raise ValueError(
                f"there is no corruption {name!r}; give all, none or some of {', '.join(NAMES)}"
            )
    return NAMES if "all" in names else tuple(name for name in NAMES if name in names)


def corrupt(
    picture: np.ndarray, name: str, severity: int, seed: int = 0, index: int = 0
) -> np.ndarray:
    """One picture with one corruption; the random draws belong to (seed, index, name, severity).

    The severities are those of ImageNet-C, chosen for pictures of 224 px: on smaller ones, where
    their radii in pixels stay, blurs and warps are stronger.

    Args:
        picture: (h, w, 3) uint8.
        name: one of `NAMES`.
        severity: 1 to 5.
        index: of the picture in its source.

    Returns:
        (h, w, 3) uint8, rounded.

    Raises:
        ValueError: for another picture, name or severity.
        ImportError: without corrupt-tta.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(
            f"a picture to corrupt must be (h, w, 3) uint8, not {picture.shape} {picture.dtype}"
        )
    if name not in NAMES:
        raise ValueError(f"there is no corruption {name!r}; there are {', '.join(NAMES)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be a whole number from 1 to 5, not {severity!r}")
    try:
        import corrupt_tta
        from skimage.util import random_noise
    except ImportError as error:
        raise ImportError(
            f"corruptions need the package corrupt-tta ({error}); install it with "
            'pip install -e ".[robust]", and libgl1 where OpenCV asks for libGL'
        ) from error
    entropy = np.random.SeedSequence((seed, index, NAMES.index(name), severity))
    if name == "impulse_noise":
        # corrupt-tta's call of the same function draws anew in every process
        rng, amount = np.random.default_rng(entropy), _IMPULSES[severity - 1]
        changed = 255 * random_noise(picture / 255, mode="s&p", rng=rng, amount=amount)
    else:
        with _seeded(entropy):
            changed = corrupt_tta.corrupt(picture, severity, name)
    return np.rint(np.clip(changed, 0, 255)).astype(np.uint8)


@contextmanager
def _seeded(entropy: np.random.SeedSequence) -> Iterator[None]:
    """numpy's global generator, which corrupt-tta draws from, seeded; afterwards as before."""
    with _RANDOM:
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(entropy.generate_state(4))  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002
