"""Explain why a checkpoint does not fit the model that loads it."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

MISSING = object()


def fits(network: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    """Tell whether weights have the names that a network expects, and the shapes of its parameters.

    Shapes of buffers may differ: some follow from training, such as the number of references.

    Example:
        >>> fits(nn.Linear(2, 1), nn.Linear(2, 1).state_dict()), fits(nn.Linear(2, 1), nn.Linear(3, 1).state_dict())
        (True, False)
    """
    if network.state_dict().keys() != weights.keys():
        return False
    return all(weights[name].shape == parameter.shape for name, parameter in network.named_parameters())


def explain_misfit(
    saved: Mapping[str, Any], own: Mapping[str, Any], shaping: Mapping[str, Callable[[Any], object]]
) -> str | None:
    """Explain in terms of a model's arguments why weights of a checkpoint do not fit, and what to do.

    Args:
        saved: Arguments with which the model of the checkpoint was built.
        own: Arguments of the model that loads it.
        shaping: Names of the arguments that shape the networks, each with a function whose result is equal for
            equivalent values: ``float`` for a factor, ``bool`` where only on or off matters. ``"network.width"`` is the
            width in a group ``network``, a mapping or an object with attributes.

    Returns:
        The explanation, or ``None`` if the arguments do not explain it.

    Example:
        >>> trained, own = {"network": {"width": 0.25}}, {"network": {"width": 1.0}}
        >>> print(explain_misfit(trained, own, {"network.width": float}))  # doctest: +NORMALIZE_WHITESPACE
        The checkpoint was trained with network.width=0.25, but this model has network.width=1.0. Add
        --model.network.width 0.25 to the command.
    """
    pairs = {name: (look_up(saved, name), look_up(own, name)) for name in shaping}
    known = {name: pair for name, pair in pairs.items() if MISSING not in pair}
    misfits = {name: pair for name, pair in known.items() if shaping[name](pair[0]) != shaping[name](pair[1])}
    if not misfits:
        return None
    trained, here = (", ".join(f"{name}={pair[side]}" for name, pair in misfits.items()) for side in (0, 1))
    options = " ".join(f"--model.{name} {_as_yaml(theirs)}" for name, (theirs, _) in misfits.items())
    return f"The checkpoint was trained with {trained}, but this model has {here}. Add {options} to the command."


def look_up(arguments: object, name: str) -> Any:  # noqa: ANN401
    """Find an argument by its name, with dots where it is in a group; :data:`MISSING` if there is none.

    Example:
        >>> look_up({"network": {"width": 0.25}}, "network.width")
        0.25
    """
    found = arguments
    for part in name.split("."):
        found = found.get(part, MISSING) if isinstance(found, Mapping) else getattr(found, part, MISSING)
    return found


def _as_yaml(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"'{list(value)}'"
    return str(value).lower() if isinstance(value, bool) else str(value)
