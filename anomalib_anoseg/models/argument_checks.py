"""Checks of the arguments that the models of this package share."""

from collections.abc import Sequence

from anomalib_anoseg.transforms.base import check_value


def check_shared_arguments(
    image_size: Sequence[int],
    min_side: int,
    width: float,
    lr: float,
    averaging: float,
    score_window: int,
    seed: int | None,
) -> None:
    """Check what is common to the models.

    Args:
        image_size: Height and width in pixels.
        min_side: Shortest side that the networks can take.
        width: Factor on the channels.
        lr: Learning rate.
        averaging: Decay of the averaged weights.
        score_window: Side of the window of the image score.
        seed: Of the model.

    Raises:
        ValueError: If one is out of range; the message names it, its value and the range.
    """
    if len(image_size) != 2 or min(image_size) < min_side:  # noqa: PLR2004
        raise ValueError(
            f"image_size must be (height, width) of {min_side} pixels or more each, got {tuple(image_size)}."
        )
    check_value("width", width, 0.05, 4.0)
    check_value("lr", lr, 1e-8, 1.0)
    check_value("averaging", averaging, 0.0, 0.99999)
    if score_window < 1 or score_window % 2 == 0:
        raise ValueError(f"score_window must be an odd number of pixels, 1 or more, got {score_window}.")
    if seed is not None and seed < 0:
        raise ValueError(f"seed must be a whole number >= 0, or null for none, got {seed}.")
