"""Places in an image, as people write them."""


def read_position(position: str) -> tuple[int, int] | tuple[float, float] | None:
    """None for "centre"; "row,column" as whole numbers for a cell, or with a decimal point as
    fractions of height and width.

    Raises:
        ValueError: for anything else.
    """
    if position in ("centre", "center"):
        return None
    try:
        first, second = (text.strip() for text in position.split(","))
        if "." in position:
            place = float(first), float(second)
            inside = all(0 <= part <= 1 for part in place)
        else:
            place = int(first), int(second)
            inside = min(place) >= 0
    except ValueError:
        inside, place = False, None
    if not inside:
        raise ValueError(
            f"position {position!r} is not understood: give centre, a cell such as 3,3 or "
            "fractions of the image such as 0.5,0.5"
        )
    return place
