"""Objects of JSON as dataclasses, checked against the types of the fields. It needs the standard library alone."""

import json
import math
import sys
from dataclasses import fields
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from anomalib_anoseg.common.messages import one_line

__all__ = ["MisfitError", "read_object", "shown"]

LARGEST = sys.float_info.max
# Types of JSON's plain values, and their names.
PLAIN: dict[type, tuple[Any, str]] = {
    str: (str, "text"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
}

T = TypeVar("T")


class MisfitError(Exception):
    """An entry is missing or is not what it should be."""

    def __init__(self, place: str, expected: str | None = None, content: object = None) -> None:
        wrong = f"'s {place} must be {expected}, got {shown(content)}." if expected else f" lacks {place}."
        super().__init__(wrong)


def read_object(kind: type[T], content: Any, place: str) -> T:  # noqa: ANN401
    """Make a dataclass from an object of JSON.

    Raises:
        MisfitError: If an entry is missing or is not what it should be.
    """
    if not isinstance(content, dict):
        raise MisfitError(place, "an object", content)
    hints = get_type_hints(kind)
    values = {}
    for field in fields(kind):  # type: ignore[arg-type] # a dataclass
        inner = f"{place}.{field.name}".removeprefix(".")
        if field.name in content:
            values[field.name] = _read(hints[field.name], content[field.name], inner)
        elif field.default is field.default_factory:  # both are MISSING
            raise MisfitError(inner)
    return kind(**values)


def _read(kind: Any, content: Any, place: str) -> Any:  # noqa: ANN401
    """Check a value of JSON against the type of a field, and make it one.

    Raises:
        MisfitError: If it is not of the type.
    """
    arguments = get_args(kind)
    if get_origin(kind) in {UnionType, Union}:
        return None if content is None else _read(arguments[0], content, place)
    if get_origin(kind) is dict:
        if not isinstance(content, dict):
            raise MisfitError(place, "an object", content)
        return {name: _read(arguments[1], value, f"{place}.{name}") for name, value in content.items()}
    if get_origin(kind) is tuple:
        length = None if arguments[-1] is ... else len(arguments)
        if not isinstance(content, list) or length not in {None, len(content)}:
            raise MisfitError(place, "a list" if length is None else f"a list of {length}", content)
        return tuple(_read(arguments[0], value, f"{place}[{index}]") for index, value in enumerate(content))
    if kind is float and content is None:
        return math.nan
    if kind not in PLAIN:
        return content if kind is Any else read_object(kind, content, place)
    allowed, name = PLAIN[kind]
    is_too_large = isinstance(content, (int, float)) and abs(content) > LARGEST
    if not isinstance(content, allowed) or isinstance(content, bool) or is_too_large:
        raise MisfitError(place, name, content)
    return kind(content)


def shown(content: object) -> str:
    """Write a value of JSON so that it fits into a message."""
    return one_line(json.dumps(content), 60)
