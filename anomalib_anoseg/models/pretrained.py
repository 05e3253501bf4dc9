"""Weights of timm's networks, from timm's download or from a file."""

from pathlib import Path
from pickle import UnpicklingError  # noqa: S403 - nothing is unpickled here
from typing import Any

import timm
import torch
from torch import nn

from anomalib_anoseg.training.seeding import seeded_weights


def load_pretrained(
    network: nn.Module,
    backbone: str,
    weights: str | None,
    argument: str,
    **timm_arguments: Any,  # noqa: ANN401
) -> None:
    """Load the weights that timm publishes for a network into one that timm made.

    Args:
        network: Made by ``timm.create_model(backbone, **timm_arguments)``.
        backbone: timm's name of it.
        weights: File that holds them; ``None`` lets timm download them, or take them from where it keeps downloads.
        argument: Name of the argument that asked for them, for messages.
        **timm_arguments: Of ``timm.create_model``.

    Raises:
        ValueError: If there is no such file, it holds something else, or nothing can be downloaded.
    """
    if weights is not None and not Path(weights).is_file():
        raise ValueError(f"{argument}: there is no file {weights!r}.")
    overlay = {"file": weights} if weights else None
    try:
        with seeded_weights(0):
            source = timm.create_model(backbone, pretrained=True, pretrained_cfg_overlay=overlay, **timm_arguments)
    except (LookupError, OSError, RuntimeError, UnpicklingError) as error:
        told = next(iter(str(error).splitlines()), type(error).__name__)
        reason = (
            f"{weights!r} does not hold timm's weights of {backbone!r}: {told}"
            if weights
            else f"timm could not get weights of {backbone!r}: {told} Without a network give a file with them, as timm "
            "publishes them, in place of true; or false, for random weights."
        )
        raise ValueError(f"{argument}: {reason}") from error
    # timm only warns of what a file does not hold, and leaves that random.
    with seeded_weights(0):
        random = timm.create_model(backbone, **timm_arguments)
    missing = [
        name
        for (name, weight), other in zip(source.named_parameters(), random.parameters(), strict=True)
        if weight.ndim > 1 and torch.equal(weight, other)
    ]
    if missing:
        raise ValueError(
            f"{argument}: {weights!r} does not hold timm's weights of {backbone!r}: "
            f"{missing[0]} and {len(missing) - 1} others are not in it."
        )
    network.load_state_dict(source.state_dict())
