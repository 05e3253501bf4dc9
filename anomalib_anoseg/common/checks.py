"""Checks of arguments, with messages that name the argument, its value and its bounds."""


def check_value(name: str, value: float, low: float, high: float) -> None:
    """Check that a number is within ``[low, high]``.

    Raises:
        ValueError: If it is not.
    """
    if not low <= value <= high:
        raise ValueError(f"{name} must lie within [{low}, {high}], got {value}.")


def check_interval(name: str, interval: tuple[float, float], low: float, high: float) -> None:
    """Check that a range is ordered and within ``[low, high]``.

    Raises:
        ValueError: If it is not.
    """
    if len(interval) != 2 or not low <= interval[0] <= interval[1] <= high:  # noqa: PLR2004
        raise ValueError(f"{name} must lie within [{low}, {high}], lower bound first, got {tuple(interval)}.")
