"""Which tokens are looked at, and which of them are outliers."""

from dataclasses import dataclass

from workbench.methods.method import IntervalConfig


@dataclass(frozen=True)
class TokensConfig(IntervalConfig):
    """Which tokens are looked at, and which of them are outliers.

    Attributes:
        layer: modules to look behind, by their paths or patterns such as blocks.*, with the axes of
            their output where these cannot be told (blocks.3:blc); by default every block.
        mad: a token is an outlier when its norm lies above the median of its map by more than so
            many median absolute deviations.
        cut: a fixed norm above which tokens are counted too, such as the 150 that was published for
            DINOv2; norms of different networks have different scales.
        keep: images whose maps are kept.
        chunk: images measured at a time.

    Raises:
        ValueError: for a number of deviations or a cut below 0.
    """

    layer: tuple[str, ...] = ()
    mad: float = 5.0
    cut: float | None = None
    keep: int = 8
    chunk: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(mad=0, cut=0, keep=1, chunk=1)
