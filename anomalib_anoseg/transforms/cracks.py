"""Cracks and scratches: thin lines with corners, bends and branches."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from anomalib_anoseg.common.checks import check_interval, check_value
from anomalib_anoseg.transforms._tensors import in_parts, per_image
from anomalib_anoseg.transforms.altered import AlteredPlace
from anomalib_anoseg.transforms.blobs import offsets
from anomalib_anoseg.transforms.random_stream import RandomStream
from anomalib_anoseg.transforms.saliency import Saliency

# Straight pieces of a line.
PIECES = 8
# Range of the angle at which a branch leaves its line, in radians, to either side.
FORK = (0.35, 1.2)
# Range of a branch's length, as a fraction of its line's.
BRANCH = (0.2, 0.7)


class Cracks(AlteredPlace):
    """Draw a thin, tapering line in each image, darker or lighter, with corners and branches.

    A polygon whose direction is a random walk, and shorter ones that start at its corners. Without branches and with
    little ``bend`` it is a scratch. The idea is from the cracks of the magnetic tiles of Huang et al. (*Surface
    defect saliency of magnetic tile*, 2018); the form is ours.

    Args:
        length: Range of the line's length, as a fraction of the shorter side, log-uniform, within ``[0.01, 2]``.
        width: Range of its largest width, as a fraction of the shorter side, log-uniform, within ``[0.001, 0.1]``.
        branches: Number of branches, 0 to 8.
        bend: Largest change of direction from piece to piece, in radians, within ``[0, 3]``.
        strength: Range of the change along its middle, within ``[0.01, 1]``; 1 is black or white.
        light_p: Probability of a light line in place of a dark one.
        saliency: Where the middle of the line lies, see :class:`CutPaste`.
        p: Probability of an anomaly.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape.

    Raises:
        ValueError: If an argument is out of bounds.

    Convention:
        - ``_params``: ``length``, ``width``, ``strength``, ``light`` and ``course`` (radians) ``(B,)``; ``turns``
          ``(B, 1 + branches, 8)`` in radians; of the branches ``start`` (int64), ``fork`` (radians) and ``part``
          ``(B, branches)``; ``center`` ``(B, 2)``.
        - Mask, visibility and container as :class:`LocalShade`.

    Example:
        >>> import torch
        >>> scratch = Cracks(branches=0, bend=0.1, light_p=1.0).manual_seed(0)
        >>> forged, mask = scratch.forge(torch.full((1, 3, 64, 64), 0.5))
        >>> bool((forged[mask.expand_as(forged) == 1] > 0.5).all())
        True
    """

    def __init__(
        self,
        length: tuple[float, float] = (0.15, 0.7),
        width: tuple[float, float] = (0.006, 0.03),
        branches: int = 3,
        bend: float = 0.7,
        strength: tuple[float, float] = (0.15, 0.8),
        light_p: float = 0.2,
        saliency: Saliency | str = "none",
        p: float = 1.0,
        keepdim: bool = False,
    ) -> None:
        check_interval("length", length, 0.01, 2.0)
        check_interval("width", width, 0.001, 0.1)
        check_value("branches", branches, 0, 8)
        check_value("bend", bend, 0.0, 3.0)
        check_interval("strength", strength, 0.01, 1.0)
        check_value("light_p", light_p, 0.0, 1.0)
        super().__init__(saliency, p, keepdim)
        self.flags = {
            "length": tuple(length),
            "width": tuple(width),
            "branches": int(branches),
            "bend": bend,
            "strength": tuple(strength),
            "light_p": light_p,
        }

    def draw_parameters(self, shape: Sequence[int], stream: RandomStream) -> dict[str, Tensor]:
        """Draw line, branches, width and colour for every image."""
        flags, count, branches = self.flags, shape[0], self.flags["branches"]
        side = stream.choice((count, branches), 2) * 2 - 1
        return {
            "length": stream.uniform((count,), *(math.log(bound) for bound in flags["length"])).exp(),
            "width": stream.uniform((count,), *(math.log(bound) for bound in flags["width"])).exp(),
            "strength": stream.uniform((count,), *flags["strength"]),
            "light": (stream.uniform((count,), 0.0, 1.0) < flags["light_p"]).float(),
            "center": stream.uniform((count, 2), 0.0, 1.0),
            "course": stream.uniform((count,), 0.0, 2 * math.pi),
            "turns": stream.uniform((count, 1 + branches, PIECES), -flags["bend"], flags["bend"]),
            "start": stream.choice((count, branches), PIECES),
            "fork": stream.uniform((count, branches), *FORK) * side,
            "part": stream.uniform((count, branches), *BRANCH),
        }

    def alter(self, image: Tensor, center: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Blend a line and its branches with black or white."""
        side = min(image.shape[-2:])
        width = params["width"] * side
        line, course = _walk(params["course"], params["turns"][:, 0], params["length"] * side / PIECES)
        line += (center - line.mean(1))[:, None]
        cover = _cover(line, width, image)
        for number in range(self.flags["branches"]):
            start = params["start"][:, number, None]
            heading = course.gather(1, start)[:, 0] + params["fork"][:, number]
            piece = params["part"][:, number] * params["length"] * side / PIECES
            branch, _ = _walk(heading, params["turns"][:, number + 1], piece)
            origin = line.gather(1, start[..., None].expand(-1, -1, 2))
            cover = torch.maximum(cover, _cover(origin + branch, 0.7 * width, image))
        return torch.lerp(image, per_image(params["light"], image), per_image(params["strength"], image) * cover)


def _walk(course: Tensor, turns: Tensor, piece: Tensor) -> tuple[Tensor, Tensor]:
    """Walk from the origin: corners ``(B, PIECES + 1, 2)``, x first, and directions ``(B, PIECES)`` in radians."""
    course = course[:, None] + turns.cumsum(1)
    steps = piece[:, None, None] * torch.stack((course.cos(), course.sin()), -1)
    return torch.cat((torch.zeros_like(steps[:, :1]), steps.cumsum(1)), 1), course


def _cover(corners: Tensor, width: Tensor, image: Tensor) -> Tensor:
    """Draw a line with smooth rims, whose width falls to a fifth towards its end: ``(B, 1, H, W)``, in ``[0, 1]``."""
    begin, along = corners[:, :-1], corners.diff(dim=1)
    size = image.shape[-2], image.shape[-1]
    x, y = (at.unflatten(0, begin.shape[:2])[:, :, 0] for at in offsets(begin.flatten(0, 1), size))
    dx, dy = along[..., 0, None, None], along[..., 1, None, None]
    number = torch.arange(PIECES, device=image.device)[:, None, None]
    covers = []
    for (rows,) in in_parts(size, y.movedim(2, 0)):
        y = rows.movedim(0, 2)
        way = ((x * dx + y * dy) / (dx * dx + dy * dy)).clamp(0, 1)
        distance = (x - way * dx).hypot(y - way * dy)
        half = per_image(width, image) / 2 * (1 - 0.8 * (number + way) / PIECES)
        # A line thinner than a pixel covers a part of it.
        covers += [(half + 0.5 - distance).clamp(min=0).minimum(2 * half).clamp(max=1).amax(1, keepdim=True)]
    return torch.cat(covers, 2)
