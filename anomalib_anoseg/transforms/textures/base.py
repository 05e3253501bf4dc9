"""Base of all sources of textures."""

from collections.abc import Sequence

from torch import Tensor, nn

from anomalib_anoseg.transforms._tensors import on_device
from anomalib_anoseg.transforms.random_stream import RandomStream
from anomalib_anoseg.transforms.textures.distortions import distort, draw_distortions


class Textures(nn.Module):
    """Source of textures, which are distorted at random for each image, as in DRAEM.

    Subclasses define in :meth:`look_up` which picture an index means. Like the transforms, they draw everything random
    in :meth:`draw`; later they read only this, the ``noise`` ``(B, 1, H, W)`` that a transform thresholds, and the
    whole ``batch`` ``(N, C, H, W)`` of which the images are a part.
    """

    # Padding of a rotated texture: black in DRAEM.
    padding: str = "zeros"

    def draw(self, shape: Sequence[int], stream: RandomStream) -> dict[str, Tensor]:
        """Draw which texture each of ``(B, C, H, W)`` images gets, and how it is distorted.

        Returns:
            The parameters of :func:`~.distortions.draw_distortions`, and ``index``, ``(B,)`` in ``[0, 1)``.
        """
        params = draw_distortions(stream, shape[0], shape[1])
        return params | {"index": stream.uniform((shape[0],), 0.0, 1.0)}

    def check_files(self) -> None:
        """Check before training that files can be read; by default, there are none."""

    def look_up(self, image: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Get the undistorted texture for each of ``(B, C, H, W)`` images: that shape or ``(B, 1, H, W)``, uint8.

        It must be contiguous. The caller may overwrite it.
        """
        raise NotImplementedError

    def forward(self, image: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Make a texture for each image.

        Args:
            image: ``(B, C, H, W)``, floating point, in ``[0, 1]``.
            params: The parameters that :meth:`draw` drew, ``noise``, and ``batch``, which may be left out if it is
                ``image``.

        Returns:
            ``(B, C, H, W)`` or, if it is grey, ``(B, 1, H, W)``; float32, in ``[0, 1]``, without gradient.
        """
        params = on_device(params, image.device)
        return distort(self.look_up(image.detach(), params), params, self.padding)
