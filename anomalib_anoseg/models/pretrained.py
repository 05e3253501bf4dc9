"""Weights of timm's networks, from timm's download or from a file."""

from pathlib import Path
from pickle import UnpicklingError  # noqa: S403 - nothing is unpickled here
from typing import Any

import timm
import torch
from torch import Tensor, nn

from anomalib_anoseg.training.seeding import seeded_weights


def expected_colours(backbone: str) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, ``(3, 1, 1)`` each, of the images that timm's weights of a backbone expect.

    Example:
        >>> expected_colours("resnet18")[0].flatten()
        tensor([0.4850, 0.4560, 0.4060])
    """
    expected: Any = timm.get_pretrained_cfg(backbone)
    return torch.tensor(expected.mean).view(-1, 1, 1), torch.tensor(expected.std).view(-1, 1, 1)


def load_pretrained(
    network: nn.Module,
    backbone: str,
    weights: str | None,
    argument: str,
    **timm_arguments: Any,  # noqa: ANN401
) -> None:
    """Load timm's published weights into a network that timm created.

    Args:
        network: Made by ``timm.create_model(backbone, **timm_arguments)``.
        backbone: Its name in timm.
        weights: Weights file; ``None`` lets timm download the weights, or read them from its cache.
        argument: Name of the setting that requested them, for error messages.
        **timm_arguments: Further arguments of ``timm.create_model``.

    Raises:
        ValueError: If the file is missing or does not fit, or the download fails.
    """
    if weights is not None and not Path(weights).is_file():
        raise ValueError(f"{argument}: there is no file {weights!r}.")
    overlay = {"file": weights} if weights else None
    try:
        with seeded_weights(0):
            source = timm.create_model(backbone, pretrained=True, pretrained_cfg_overlay=overlay, **timm_arguments)
    except (LookupError, OSError, RuntimeError, UnpicklingError) as error:
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        reason = (
            f"{weights!r} does not hold timm's weights of {backbone!r}: {cause}"
            if weights
            else f"timm could not get weights of {backbone!r}: {cause} Without a network connection, replace true by "
            "the path of a file as timm publishes it, or by false for random weights."
        )
        raise ValueError(f"{argument}: {reason}") from error
    # timm only warns about tensors that a file lacks, and leaves them random.
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
            f"{missing[0]} and {len(missing) - 1} others are missing."
        )
    network.load_state_dict(source.state_dict())
