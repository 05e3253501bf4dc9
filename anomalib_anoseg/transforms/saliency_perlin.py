"""SGSF's synthetic anomalies: textures in the shape of noise, on the object that stands out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from anomalib_anoseg.transforms.perlin import FREQUENCIES
from anomalib_anoseg.transforms.perlin_anomaly import PerlinAnomaly
from anomalib_anoseg.transforms.saliency import Saliency
from anomalib_anoseg.transforms.textures import Textures


class SaliencyPerlin(PerlinAnomaly):
    """SGSF's synthetic anomalies: foreign textures in the shape of noise, on the object that stands out.

    SGSF (arXiv 2209.12440) in the form of its journal version (doi 10.1109/TCSVT.2023.3327448): noise is weighted by
    the image's saliency and thresholded by how much of the image is salient; where nothing is, as in a picture of a
    texture, plain noise is. The saliency network of the paper is not part of this package; see ``saliency``.

    Args:
        saliency: How to find the object: ``"border_contrast"``, ``"spectral_residual"``, ``"none"``, a folder of maps
            made by any tool, or a module.
        threshold: ``(a, b)``: the weighted noise must exceed ``a + b * mean(saliency)``.
        textures: What shows through: a folder of pictures, such as DTD, a module, or ``None`` for other images of the
            batch (our choice).
        opacity: Range of the texture's weight over the image, within ``[0.01, 1]``.
        mark: What the mask marks: ``"noise"``, wherever the texture shows, or, which is not the paper's, those of its
            pixels that are ``"changed"`` by more than 3/255 in some channel, which a person can just about see.
        rotation_p: Probability of rotating the whole image by ``U(-90, 90)`` degrees, its saliency with it; normal
            images are rotated as well.
        frequencies: Numbers of cells of the noise's lattice along an axis, to choose from, each within ``[1, 32]``.
        redraws: How often an empty mask is drawn again, ``0 <= redraws <= 20``; the sample is normal afterwards.
        p: Probability of an anomaly; 0.75 gives three forged images for each normal one.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape.

    Raises:
        ValueError: If an argument is out of bounds.

    Convention:
        - ``_params`` hold, for each image, ``1 + redraws`` draws of the noise: ``frequency`` ``(B, R, 2)``,
          ``gradients`` ``(B, R, 33, 33)`` and ``angle`` ``(B, R)``; ``opacity`` and ``degrees`` ``(B,)``;
          ``rotated`` ``(B, 1, K)`` (which images are rotated, of ``K`` at most); those of the texture under
          ``texture.<name>``; where :meth:`forge` got the images' files, the ``saliency`` ``(B, 1, h, w)`` of the images
          before they are rotated, of any size of their shape.
        - The gate ``p`` decides about the anomaly alone: images that it skips may be rotated. :meth:`rotate` gives the
          normal images as they were when anomalies were planted; outside the mask, forged images equal them bit by bit.
        - Whether a mask is empty is decided on a grid of 48 pixels a side, so that redraws cost little.
        - A mask ``(B, 1, H, W)`` is rotated with its image and gets 1 where an anomaly is. In a container give the keys
          as ``["input", "mask"]``, in this order.
        - A folder of saliency maps needs the files of the images: call :meth:`forge` with ``paths``.
        - No loop over the batch, no host synchronisation (but for reading a folder's files).

    Example:
        >>> import torch
        >>> image = torch.rand(4, 3, 64, 64)
        >>> transform = SaliencyPerlin(p=1.0).manual_seed(0)
        >>> forged, mask = transform.forge(image)
        >>> bool(torch.equal(torch.where(mask == 1, transform.rotate(image), forged), transform.rotate(image)))
        True
    """

    def __init__(
        self,
        saliency: Saliency | str = "border_contrast",
        threshold: tuple[float, float] = (0.4, 0.2),
        textures: Textures | str | Path | None = None,
        opacity: tuple[float, float] = (0.1, 1.0),
        mark: Literal["noise", "changed"] = "noise",
        rotation_p: float = 0.3,
        frequencies: Sequence[int] = FREQUENCIES,
        redraws: int = 5,
        p: float = 0.75,
        keepdim: bool = False,
    ) -> None:
        super().__init__(saliency, threshold, textures, opacity, mark, rotation_p, frequencies, redraws, p, keepdim)
