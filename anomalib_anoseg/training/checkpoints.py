"""Find out whether a checkpoint is as it was saved, and explain why it does not fit the model that loads it."""

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from anomalib.utils.serialization import anomalib_safe_globals
from torch import Tensor, nn

from anomalib_anoseg.common.messages import one_line

MISSING = object()
# Key of the digests in a checkpoint, and its parts that have one.
DIGESTS = "anomalib_anoseg_digests"
DIGESTED = ("state_dict", "optimizer_states")


def add_digests(checkpoint: dict[str, Any]) -> None:
    """Add the digests of its tensors to a checkpoint that is about to be saved.

    Each part has its own, so that a checkpoint may lose its optimisers' states.
    """
    checkpoint[DIGESTS] = {part: digest(checkpoint[part]) for part in DIGESTED if part in checkpoint}


def check_digests(checkpoint: Mapping[str, Any], parts: Sequence[str] = DIGESTED, name: str = "The checkpoint") -> None:
    """Check that the tensors of a checkpoint are those that were saved; one without digests is taken as it is.

    Args:
        checkpoint: What the file holds.
        parts: Those that are used.
        name: Of the checkpoint, for the message.

    Raises:
        ValueError: If they are not, because bytes of the file have changed.
    """
    expected = checkpoint.get(DIGESTS, {})
    for part in parts:
        if part in checkpoint and part in expected and digest(checkpoint[part]) != expected[part]:
            raise ValueError(
                f"{name} is damaged: its {part} is not what was saved. Copy the file again from where it was written, "
                f"or take another one. If you changed it on purpose, remove its entry {DIGESTS!r} in Python: "
                f"c = torch.load(FILE, 'cpu'); del c[{DIGESTS!r}]; torch.save(c, FILE)."
            )


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """Read what a checkpoint of Lightning holds, without running code from it.

    Raises:
        ValueError: If it is none, or its weights are not those that were saved.
    """
    try:
        with anomalib_safe_globals():
            content = torch.load(path, map_location="cpu", weights_only=True)
        content["state_dict"].keys()
    except Exception as error:
        why = explain_error(error).rstrip(".")
        raise ValueError(
            f"{path} is no checkpoint that can be read: {why}. Give the model.ckpt of a training."
        ) from error
    check_digests(content, ("state_dict",), f"The checkpoint {path}")
    return dict(content)


def explain_error(error: Exception) -> str:
    """Write an error on a line, with its type if it is not ours, and without torch's advice to run a file's code.

    Example:
        >>> explain_error(EOFError("Ran out of input"))
        'EOFError: Ran out of input'
    """
    reason = str(error).rpartition("WeightsUnpickler error:")[2]
    for advice in ("Please use `torch", "Check the documentation of torch"):
        reason = reason.partition(advice)[0]
    name = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return one_line(name + reason, 600).rstrip(": ")


def digest(part: object) -> str:
    """Compute the SHA-256 of all tensors in nested mappings and lists: names, types, shapes and values.

    Example:
        >>> weights = nn.Linear(2, 1).state_dict()
        >>> digest(weights) == digest({name: value.clone() for name, value in weights.items()})
        True
        >>> digest(weights) == digest({**weights, "bias": weights["bias"] + 1e-7})
        False
    """
    found = hashlib.sha256()
    for name, tensor in _list_tensors("", part):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _list_tensors(name: str, part: object) -> Generator[tuple[str, Tensor], None, None]:
    if isinstance(part, Tensor):
        yield name, part
    elif isinstance(part, Mapping | list | tuple):
        for key, value in part.items() if isinstance(part, Mapping) else enumerate(part):
            yield from _list_tensors(f"{name}/{key}", value)


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
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_trained(weights: Mapping[str, Tensor], name: str = "The checkpoint") -> None:
    """Refuse weights of a checkpoint, with its name for the message, that a diverged training has left.

    Raises:
        ValueError: If a tensor holds NaN or infinity.
    """
    if names := find_not_finite(weights):
        raise ValueError(
            f"{name}'s weights {names} are NaN or infinite: its training diverged. Take an earlier checkpoint, "
            "or train again with a lower learning rate (--model.optimizer.lr)."
        )


def find_not_finite(weights: Mapping[str, Tensor]) -> str:
    """Name the first tensor that holds NaN or infinity, and count the others; empty if there is none.

    Example:
        >>> find_not_finite({"a": torch.ones(2), "b": torch.tensor([1.0, torch.inf])})
        'b'
    """
    finite = torch.stack([weight.isfinite().all() for weight in weights.values()]).tolist() if weights else []
    names = [name for name, is_finite in zip(weights, finite, strict=True) if not is_finite]
    return names[0] + (f" and {len(names) - 1} more" if names[1:] else "") if names else ""
