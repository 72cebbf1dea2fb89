"""How many floating point operations a selective scan has; the same for every backend."""

Shape = tuple[int, ...]


def forward(delta: Shape, A: Shape, D: Shape | None, order: Shape | None) -> int:
    """9 per state update, the count VMamba publishes, and 2 per element for D.

    Args:
        delta: (b, l, k, d). A: (k d, n). D: (k d) or None. order: (k, s) or None for all tokens.
    """
    return _elements(delta, order) * (9 * A[1] + (0 if D is None else 2))


def backward(delta: Shape, A: Shape, D: Shape | None, order: Shape | None) -> int:
    """5 to recompute a state and 14 for its six gradients; 4 per element for D."""
    return _elements(delta, order) * (19 * A[1] + (0 if D is None else 4))


def _elements(delta: Shape, order: Shape | None) -> int:
    batch, tokens, directions, channels = delta
    return batch * directions * channels * (tokens if order is None else order[1])
