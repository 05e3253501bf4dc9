"""Checks of arguments, with messages that name the argument, its value and its bounds."""

import math
from functools import cache
from numbers import Real
from typing import Any, get_origin

from pydantic import TypeAdapter, ValidationError

from anomalib_anoseg.common.messages import one_line


def as_type(name: str, value: object, kind: Any) -> Any:  # noqa: ANN401 - a type hint
    """Return a value as what a type hint says, which plain numbers, texts and tuples of them must be.

    Numbers of other libraries, as numpy's, become Python's if the hint asks for ``float``. A whole number is a number.

    Raises:
        TypeError: If it is of another type.

    Example:
        >>> as_type("count", 1.5, int)
        Traceback (most recent call last):
        TypeError: count must be int, got 1.5.
    """
    try:
        return _adapter(kind).validate_python(value, strict=True)
    except ValidationError:
        hint = kind.__name__ if get_origin(kind) is None and isinstance(kind, type) else kind
        raise TypeError(f"{name} must be {hint}, got {one_line(repr(value), 80)}.") from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - a type hint
    return TypeAdapter(kind)


def check_value(name: str, value: float, low: float, high: float) -> None:
    """Check that a number is finite and within ``[low, high]``.

    Raises:
        ValueError: If it is not.

    Example:
        >>> check_value("gamma", float("nan"), 0.0, float("inf"))
        Traceback (most recent call last):
        ValueError: gamma must be a finite number, got nan.
    """
    check_finite(name, value)
    if not low <= value <= high:
        raise ValueError(f"{name} must lie within [{low}, {high}], got {value}.")


def check_interval(name: str, interval: tuple[float, float], low: float, high: float) -> None:
    """Check that a range is finite, ordered and within ``[low, high]``.

    Raises:
        ValueError: If it is not.
    """
    check_finite(name, interval)
    if len(interval) != 2 or not low <= interval[0] <= interval[1] <= high:  # noqa: PLR2004
        raise ValueError(f"{name} must lie within [{low}, {high}], lower bound first, got {tuple(interval)}.")


def check_finite(name: str, value: object) -> None:
    """Check that a number, or all numbers of a tuple or list, are finite; other values pass.

    Raises:
        ValueError: If one is NaN or infinite: no comparison finds NaN out of bounds.
    """
    numbers = value if isinstance(value, tuple | list) else (value,)
    floats = [number for number in numbers if isinstance(number, Real) and not isinstance(number, int)]
    if not all(map(math.isfinite, floats)):
        kind = "hold finite numbers" if isinstance(value, tuple | list) else "be a finite number"
        raise ValueError(f"{name} must {kind}, got {value}.")


def check_settings(name: str, settings: Any) -> dict[str, Any]:  # noqa: ANN401
    """Check that settings are a mapping with names, and return it; ``None`` is an empty one.

    Raises:
        ValueError: If they are something else.
    """
    if settings is None:
        return {}
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise ValueError(f"{name} must map the names of settings to values, got {one_line(repr(settings), 80)}.")
    return settings
