"""Names for things that would otherwise share one."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name the settings whose values are not all equal.

    Example:
        >>> differing([{"lr": 0.1, "width": 1}, {"lr": 0.1}])
        ['width']
    """
    names = sorted({name for one in settings for name in one})
    return [name for name in names if len({fingerprint(one.get(name)) for one in settings}) > 1]


def tell_apart(
    names: Sequence[str], settings: Sequence[Mapping[str, Any]], default: str | None = None
) -> tuple[list[str], dict[str, list[str]]]:
    """Add the settings that differ to names that occur more than once.

    Args:
        names: A name for each thing.
        settings: The settings of each.
        default: Value shown for a setting that is not given; ``None`` leaves it out of the name.

    Returns:
        The longer names, and for each name that occurs more than once the settings that differ.

    Example:
        >>> tell_apart(["A", "A", "B"], [{"lr": 1}, {"lr": 2}, {}])
        (['A (lr=1)', 'A (lr=2)', 'B'], {'A': ['lr']})
    """
    namesakes: dict[str, list[Mapping[str, Any]]] = {}
    for name, one in zip(names, settings, strict=True):
        namesakes.setdefault(name, []).append(one)
    varied = {name: differing(group) for name, group in namesakes.items()}
    longer = []
    for name, one in zip(names, settings, strict=True):
        known = one if default is None else dict.fromkeys(varied[name], default) | dict(one)
        shown = ", ".join(f"{key}={known[key]}" for key in varied[name] if key in known)
        longer.append(f"{name} ({shown})" if shown else name)
    return longer, {name: keys for name, keys in varied.items() if keys}


def fingerprint(settings: Any) -> str:  # noqa: ANN401
    """Write settings as text, such that equal settings give equal text."""
    return json.dumps(settings, sort_keys=True, default=str)
