"""Classical estimators of saliency, which need no weights.

An estimator must be able to find nothing, as in a picture of a texture. So none stretches its map to the image's own
minimum and maximum: each has a fixed scale and a rule for when its map is empty.
"""

from collections.abc import Sequence

import torch
from kornia.color import rgb_to_grayscale, rgb_to_lab
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur_image

from anomalib_anoseg.common.checks import check_interval, check_value
from anomalib_anoseg.transforms._tensors import per_image
from anomalib_anoseg.transforms.saliency.base import NoSaliency, Saliency

# The smallest difference between two colours that people notice, in units of CIE Lab (Mahy et al. 1994).
NOTICEABLE = 2.3
# Amplitude of rounding to 8 bits, per pixel: the phase of a smaller amplitude means nothing.
ROUNDING = 1 / 255 / 12**0.5
# Shortest side in pixels of a reduced image that is long and narrow: enough for a border and something inside it.
MINIMUM = 8


class BorderContrast(Saliency):
    """Finds the object by how far colours differ from the image's border, in spreads of the border's colours.

    Many classical methods assume that the border shows the background (Wei et al., *Geodesic saliency*, ECCV 2012;
    Zhang et al., *Minimum barrier*, ICCV 2015, whose border contrast is a Mahalanobis distance, too). Ours describes
    the border by the medians and the median absolute deviations (spreads) of its CIE Lab channels, which hardly change
    while an object covers less than half of it, and measures all pixels in these spreads.

    A border cannot separate an object from a background of the same kind. By assumption, nothing on the border is
    salient. If salient pixels are not ``ratio`` times as frequent inside as on the border, the image is one texture and
    its map is empty. The map is also empty if only specks are salient.

    Args:
        spreads: A pixel that differs by at most the first number of spreads is background, 0; from the second on it is
            salient, 1. Defaults: 4, which one pixel in a thousand exceeds if colours vary normally, and 8.
        border: Width of the border, as a fraction of the shorter side, in ``(0, 0.25]``.
        ratio: How many times as frequent salient pixels must be inside as on the border, at least 1.
        area: Smallest fraction of an image that its object covers, within ``[0, 1]``.
        size: Longer side in pixels to which images are reduced, at least 16. This also averages fine texture.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> image = torch.full((1, 3, 64, 64), 0.2)
        >>> image[..., 20:40, 24:44] = 0.8
        >>> saliency = BorderContrast()(image)
        >>> saliency[0, 0, 30, 34].item(), saliency[0, 0, 5, 5].item()
        (1.0, 0.0)
    """

    def __init__(
        self,
        spreads: tuple[float, float] = (4.0, 8.0),
        border: float = 1 / 16,
        ratio: float = 2.0,
        area: float = 0.01,
        size: int = 64,
    ) -> None:
        super().__init__()
        check_interval("spreads", spreads, 0.0, float("inf"))
        check_value("border", border, 1e-6, 0.25)
        check_value("ratio", ratio, 1.0, float("inf"))
        check_value("area", area, 0.0, 1.0)
        check_value("size", size, 16, float("inf"))
        self.spreads, self.border, self.ratio, self.area, self.size = spreads, border, ratio, area, size

    def estimate(self, image: Tensor, paths: Sequence[str] | None) -> Tensor:
        """Compare all pixels with those of the border."""
        del paths
        color = rgb_to_lab(_reduce(image, self.size))
        width = max(1, round(self.border * min(color.shape[-2:])))
        background = _border(color, width)
        center, spread = _median_and_deviation(background)
        spread *= 1.4826  # the standard deviation, if values are normally distributed
        difference = (color - center[..., None]) / spread.clamp(min=NOTICEABLE)[..., None]
        distance = difference.square().sum(1, keepdim=True).sqrt()
        low, high = self.spreads
        salient = ((distance - low) / max(high - low, 1e-6)).clamp(0, 1)
        marked = (salient > 0.5).float()  # noqa: PLR2004
        inside, outside = marked[..., width:-width, width:-width].mean((1, 2, 3)), _border(marked, width).mean((1, 2))
        found = (inside > self.ratio * outside) & (marked.mean((1, 2, 3)) >= self.area)
        return salient * per_image(found, image)

    def extra_repr(self) -> str:
        """Name what it was made with."""
        return (
            f"spreads={self.spreads}, border={self.border:g}, ratio={self.ratio:g}, area={self.area:g}, "
            f"size={self.size}"
        )


class SpectralResidual(Saliency):
    """Finds salient pixels by how far an image's spectrum departs from its own local average.

    Hou and Zhang, *Saliency detection: a spectral residual approach* (CVPR 2007): the logarithm of the amplitude
    spectrum minus its local average, transformed back with the image's phases, squared and blurred, on images of
    64 pixels. The blur is that of the authors' published listing. OpenCV's ``StaticSaliencySpectralResidual`` stretches
    all images to 64 x 64, blurs over 5 x 5 pixels, squares last, and divides by the maximum.

    We divide by the mean instead, which is 1 for a flat spectrum of random phases. In the paper a
    pixel above three times the mean belongs to an object: there our map is 1. Without such a pixel it is empty.

    Args:
        size: Longer side in pixels to which images are reduced, at least 16.
        threshold: Multiple of the mean from which a pixel belongs to an object, above 1.
        sigma: Standard deviation of the blur, in pixels of the reduced image.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> SpectralResidual()(torch.full((1, 3, 64, 64), 0.5)).max().item()  # nothing stands out
        0.0
    """

    def __init__(self, size: int = 64, threshold: float = 3.0, sigma: float = 2.5) -> None:
        super().__init__()
        check_value("size", size, 16, float("inf"))
        check_value("threshold", threshold, 1.001, float("inf"))
        check_value("sigma", sigma, 0.1, size / 8)
        self.size, self.threshold, self.sigma = size, threshold, sigma

    def estimate(self, image: Tensor, paths: Sequence[str] | None) -> Tensor:
        """Compute the spectral residual of the images' grey values."""
        del paths
        relative = self.residual(_reduce(rgb_to_grayscale(image), self.size))
        salient = ((relative - 1) / (self.threshold - 1)).clamp(0, 1)
        found = relative.amax((1, 2, 3)) > self.threshold
        return salient * per_image(found, image)

    def residual(self, gray: Tensor) -> Tensor:
        """Compute the map of reduced images ``(B, 1, h, w)``, relative to its mean."""
        spectrum = torch.fft.fft2(gray)
        amplitude, floor = spectrum.abs(), ROUNDING * (gray.shape[-2] * gray.shape[-1]) ** 0.5
        logarithm = (amplitude + floor).log()
        average = F.avg_pool2d(F.pad(logarithm, (1, 1, 1, 1), mode="circular"), 3, 1)
        back = torch.fft.ifft2((logarithm - average).exp() * spectrum / (amplitude + floor))
        radius = min(round(2 * self.sigma), min(gray.shape[-2:]) - 1)
        blurred = gaussian_blur_image(back.abs().square(), 2 * radius + 1, self.sigma)
        return blurred / blurred.mean((-2, -1), keepdim=True).clamp(min=1e-12)

    def extra_repr(self) -> str:
        """Name what it was made with."""
        return f"size={self.size}, threshold={self.threshold:g}, sigma={self.sigma:g}"


ESTIMATORS: dict[str, type[Saliency]] = {
    "none": NoSaliency,
    "spectral_residual": SpectralResidual,
    "border_contrast": BorderContrast,
}


def _reduce(image: Tensor, size: int) -> Tensor:
    """Reduce images to a longer side of ``size`` pixels, if they have more."""
    height, width = image.shape[-2:]
    scale = size / max(height, width)
    if scale >= 1:
        return image
    shape = [min(side, max(MINIMUM, round(scale * side))) for side in (height, width)]
    if height % shape[0] == width % shape[1] == 0:  # the same, but more than twice as fast
        return F.avg_pool2d(image, (height // shape[0], width // shape[1]))
    return F.interpolate(image, shape, mode="area")


def _border(image: Tensor, width: int) -> Tensor:
    """Collect the outermost ``width`` pixels of ``(B, C, H, W)`` images, each once: ``(B, C, N)``."""
    middle = image[..., width:-width, :]
    sides = image[..., :width, :], image[..., -width:, :], middle[..., :width], middle[..., -width:]
    return torch.cat([side.flatten(2) for side in sides], -1)


def _median_and_deviation(values: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the median over the last dimension, which is kept, and the median distance from it.

    On a GPU ``Tensor.median`` is not deterministic. In sorted values those nearest to the median are neighbours, so no
    second sorting is needed: the median distance is the least reach of all runs of half of the values.
    """
    values, half = values.sort(-1).values, values.shape[-1] // 2
    center = values[..., half, None]
    reach = torch.maximum(values[..., half:] - center, center - values[..., : values.shape[-1] - half])
    return center, reach.amin(-1, keepdim=True)
