"""Which function of another package is running now."""

import inspect


def is_called_by(module: str, function: str | None = None) -> bool:
    """Tell whether a function of a module is among the callers.

    Args:
        module: Its full name.
        function: Its name; ``None`` for any of the module's.

    Example:
        >>> is_called_by("doctest"), is_called_by("doctest", "nothing_of_this_name")
        (True, False)
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == module and function in {None, frame.f_code.co_name}:
            return True
        frame = frame.f_back
    return False
