"""What Lightning gives as a list, unless it is a single one."""

from typing import Any


def as_list(found: Any) -> list[Any]:  # noqa: ANN401
    """Make a list of what may be one thing, such as a loader or an optimiser, or a list of several.

    Example:
        >>> as_list("loader"), as_list(["loader", "loader"])
        (['loader'], ['loader', 'loader'])
    """
    return found if isinstance(found, list) else [found]
