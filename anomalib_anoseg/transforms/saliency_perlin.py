"""SGSF's synthetic anomalies: textures in the shape of noise, on the salient object."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from anomalib_anoseg.transforms.perlin import FREQUENCIES
from anomalib_anoseg.transforms.perlin_anomaly import PerlinAnomaly
from anomalib_anoseg.transforms.saliency import Saliency
from anomalib_anoseg.transforms.textures import Textures


class SaliencyPerlin(PerlinAnomaly):
    """SGSF's synthetic anomalies: foreign textures in the shape of noise, on the salient object.

    SGSF (arXiv 2209.12440) in the form of its journal version (doi 10.1109/TCSVT.2023.3327448): noise is weighted by
    the image's saliency, and its threshold rises with the mean saliency. If nothing is salient, as in a picture of a
    texture, plain noise is used. The saliency network of the paper is not part of this package; see ``saliency``.

    Args:
        saliency: How to find the object: ``"border_contrast"``, ``"spectral_residual"``, ``"none"``, a folder of maps
            made by any tool, or a module.
        threshold: ``(a, b)``: the weighted noise must exceed ``a + b * mean(saliency)``.
        textures: Source of textures: a folder of pictures, such as DTD, a module, ``"patterns"`` for
            :class:`PatternTextures`, or ``None`` for other images of the batch (both are our choice).
        opacity: Range of the texture's weight over the image, within ``[0.01, 1]``.
        mark: What the mask marks: all pixels whose ``"noise"`` lets the texture show, as in the paper, or only those of
            them that ``"changed"`` by more than 3/255 in any channel, which is just visible.
        rotation_p: Probability of rotating the whole image and its saliency by ``U(-90, 90)`` degrees; normal images
            are rotated as well.
        frequencies: Choices of the number of lattice cells of the noise along an axis, each within ``[1, 32]``.
        redraws: How often to draw again if a mask is empty, ``0 <= redraws <= 20``; after that the image stays normal.
        p: Probability of an anomaly; 0.75 gives three forged images for each normal one.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape.

    Raises:
        ValueError: If an argument is out of bounds.

    Convention:
        - ``_params`` hold, for each image, ``1 + redraws`` draws of the noise: ``frequency`` ``(B, R, 2)``,
          ``gradients`` ``(B, R, 33, 33)`` and ``angle`` ``(B, R)``; ``opacity`` and ``degrees`` ``(B,)``;
          ``rotated`` ``(B, 1, K)`` (which images are rotated, at most ``K``); the texture's parameters under
          ``texture.<name>``; if :meth:`forge` got the images' files, the ``saliency`` ``(B, 1, h, w)`` of the images
          before rotation, at any resolution.
        - The gate ``p`` decides only about the anomaly: images that it skips may be rotated. :meth:`rotate` returns the
          normal images in which anomalies were planted; outside the mask, forged images are bit-identical to them.
        - A mask is tested for emptiness on a grid of 48 pixels per side, so that redraws cost little.
        - A mask ``(B, 1, H, W)`` is rotated with its image and gets 1 on anomalous pixels. In a container give the keys
          as ``["input", "mask"]``, in this order.
        - The noise is rotated about the middle, with 0 outside, as in DRAEM: in a long image the ends
          hardly get an anomaly, and more masks stay empty.
        - A folder of saliency maps needs the files of the images: call :meth:`forge` with ``paths``.
        - No loop over the batch, no host synchronisation (except to read a folder's files).

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
        super().__init__(
            saliency=saliency,
            threshold=threshold,
            textures=textures,
            opacity=opacity,
            mark=mark,
            rotation_p=rotation_p,
            frequencies=frequencies,
            redraws=redraws,
            p=p,
            keepdim=keepdim,
        )
