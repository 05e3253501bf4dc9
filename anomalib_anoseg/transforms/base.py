"""What all transforms of this package share: their own random stream, and forging of image and mask."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from kornia.augmentation import IntensityAugmentationBase2D
from torch import Tensor
from typing_extensions import Self

from anomalib_anoseg.common.checks import check_value

# See `in_parts`: how many there are, and pixels of an image from which on they pay.
PARTS, WORTH_PARTS = 8, 128 * 128
# A person can just about see that a pixel differs by more than this.
VISIBLE = 3 / 255


class ForgedBatch(NamedTuple):
    """Images with synthetic anomalies and the masks that mark them.

    Attributes:
        image: ``(B, C, H, W)``, in ``[0, 1]``, dtype and device of the images that went in.
        mask: ``(B, 1, H, W)``, same dtype and device, 1 = anomalous and 0 = normal.
    """

    image: Tensor
    mask: Tensor


class SeededAugmentation(IntensityAugmentationBase2D):
    """A kornia augmentation that can draw from its own random stream.

    kornia draws from the global stream alone; here :meth:`manual_seed` gives a transform a generator of its own, so
    that two runs see the same anomalies whatever else draws random numbers. Subclasses draw in
    :meth:`generate_parameters` with :meth:`uniform` and :meth:`choice`, and change images nowhere but in
    ``apply_transform``, which reads nothing but those parameters: that gives replay, masks that follow their images,
    and no loop over the batch.

    Args:
        p: Probability with which an image is transformed, in ``[0, 1]``; every image of a batch has its own draw.
        keepdim: Whether a ``(C, H, W)`` image comes back as such instead of as ``(1, C, H, W)``.

    Raises:
        ValueError: If ``p`` is outside ``[0, 1]``.
    """

    generator: torch.Generator | None = None

    def __init__(self, p: float = 1.0, keepdim: bool = False) -> None:
        check_value("p", p, 0.0, 1.0)
        super().__init__(p=p, keepdim=keepdim)
        self.disable_features = True  # kornia 0.8 would keep a copy of each output on the host, and wait for it

    def manual_seed(self, seed: int) -> Self:
        """Draw from an own generator on the transform's device from now on, started at ``seed``."""
        if self.generator is None:
            self.generator = torch.Generator(self.device)
        self.generator.manual_seed(seed)
        return self

    def set_rng_device_and_dtype(self, device: torch.device, dtype: torch.dtype) -> None:
        """Follow the module to ``device``: a generator belongs to one device and starts there from its seed.

        Transforms within this one come along, as they draw from its stream: older kornia's ``to`` leaves them behind.
        """
        super().set_rng_device_and_dtype(device, dtype)
        for part in self.children():
            for transform in part.modules():
                if isinstance(transform, SeededAugmentation):
                    transform.set_rng_device_and_dtype(device, dtype)
        if self.generator is not None and self.generator.device != device:
            self.generator = torch.Generator(device).manual_seed(self.generator.initial_seed())

    def uniform(self, shape: tuple[int, ...], low: float, high: float) -> Tensor:
        """Draw float32 values from ``U(low, high)`` on the transform's device."""
        return torch.empty(shape, device=self.device).uniform_(low, high, generator=self.generator)

    def choice(self, shape: tuple[int, ...], count: int) -> Tensor:
        """Draw int64 values from ``{0, ..., count - 1}`` on the transform's device."""
        return torch.randint(count, shape, device=self.device, generator=self.generator)

    def forward_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw all parameters of a batch, kornia's gate ``batch_prob`` among them, from the own stream."""
        params = self.generate_parameters(batch_shape)
        params["batch_prob"] = (self.uniform((batch_shape[0],), 0.0, 1.0) < self.p).float()
        params["forward_input_shape"] = torch.tensor(batch_shape)
        return params

    def forward(self, input: Tensor, params: dict[str, Tensor] | None = None, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """Transform images.

        kornia's own version runs under autocast, which rounds colours and positions, and, when a container names the
        kind of data in ``kwargs``, hands the transform a copy of ``params``, so that what depends on the image never
        reaches the mask. Older ones leave images out of the batch that the gate skips, which waits for the device.

        Args:
            input: ``(B, C, H, W)`` or ``(C, H, W)``, floating point, in ``[0, 1]``.
            params: Parameters of an earlier call to replay; drawn anew if ``None``.
            **kwargs: Ignored; containers pass some.

        Returns:
            ``(B, C, H, W)``, or the shape given with ``keepdim``.

        Raises:
            ValueError: If ``input`` has another shape or no floating point dtype.
        """
        del kwargs
        if input.ndim not in {3, 4} or not input.is_floating_point():
            raise ValueError(
                f"Images must be floating point of shape (B, C, H, W) or (C, H, W), got {input.dtype} "
                f"{tuple(input.shape)}."
            )
        image = input if input.ndim == 4 else input[None]  # noqa: PLR2004
        self._params = self.forward_parameters(image.shape) if params is None else params
        self._params.setdefault("batch_prob", torch.ones(len(image), device=image.device))
        with torch.autocast(image.device.type, enabled=False):
            output = self._gate_by(self._params, self.apply_transform(image, self._params, self.flags), image)
        return output.view_as(input) if self.keepdim else output

    def transform_masks(
        self,
        input: Tensor,
        params: dict[str, Tensor] | None = None,
        flags: dict[str, Any] | None = None,
        transform: Tensor | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Tensor:
        """Let masks, ``(B, 1, H, W)`` or ``(B, H, W)``, follow the images that went through last, or by ``params``."""
        del flags, transform, kwargs
        params = self._params if params is None else params
        mask = input if input.ndim == 4 else input.unsqueeze(1)  # noqa: PLR2004
        return self._gate_by(params, self.apply_transform_mask(mask, params, self.flags), mask).view_as(input)

    @property
    def transform_matrix(self) -> Tensor:
        """The identity, ``(B, 3, 3)``: containers ask for it, and no transform here is a geometric warp to undo."""
        return torch.eye(3, device=self.device).expand(len(self._params["batch_prob"]), 3, 3)

    @staticmethod
    def _gate_by(params: dict[str, Tensor], transformed: Tensor, untouched: Tensor) -> Tensor:
        return torch.where(per_image(params["batch_prob"] > 0.5, untouched), transformed, untouched)  # noqa: PLR2004

    def transform_boxes(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401, D102
        raise NotImplementedError(f"{type(self).__name__} handles images and masks; boxes have no meaning here.")

    def transform_keypoints(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401, D102
        raise NotImplementedError(f"{type(self).__name__} handles images and masks; keypoints have no meaning here.")


class SyntheticAnomaly(SeededAugmentation):
    """A transform that plants anomalies and knows where they are.

    Within ``AugmentationSequential(..., data_keys=["input", "mask"])`` it adds its region to the mask given; without
    a container :meth:`forge` does both in one call.
    """

    _gives_masks: bool = False

    def with_masks(self) -> Self:
        """Give masks as well from now on when called with images alone, as anomalib's ``Draem`` wants it.

        Returns:
            The transform itself; ``transform(image)`` then is ``transform.forge(image)``. In a container nothing
            changes.
        """
        self._gives_masks = True
        return self

    def forward(
        self,
        input: Tensor,
        params: dict[str, Tensor] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Tensor | ForgedBatch:
        """Plant anomalies in images, see :meth:`SeededAugmentation.forward` and :meth:`with_masks`."""
        if self._gives_masks and params is None:
            return self.forge(input)
        return super().forward(input, params, **kwargs)

    def forge(
        self,
        image: Tensor,
        params: dict[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
        paths: Sequence[str] | None = None,
    ) -> ForgedBatch:
        """Plant anomalies in normal images.

        Args:
            image: ``(B, C, H, W)``, floating point, in ``[0, 1]``.
            params: Parameters of an earlier call (``self._params``) to replay; drawn anew if ``None``.
            generator: Random stream for this call alone, on the transform's device; its own one if ``None``.
            paths: Files of the images, for what is looked up by them (see :meth:`complete_parameters`).

        Returns:
            The images and their masks. An image that the gate ``p`` skips keeps an empty mask.
        """
        if params is None:
            own, self.generator = self.generator, generator or self.generator
            params = self.forward_parameters(image.shape)
            self.generator = own
            self.complete_parameters(params, image, paths)
        forged = super().forward(image, params=params)
        return ForgedBatch(forged, self.make_mask(image))

    def make_mask(self, image: Tensor) -> Tensor:
        """Mark the anomalies planted last, in ``image``: ``(B, 1, H, W)``, its dtype and device."""
        return self.transform_masks(image.new_zeros(image.shape[0], 1, *image.shape[-2:]))

    def turn(self, image: Tensor, params: dict[str, Tensor] | None = None) -> Tensor:
        """Make the normal images in which anomalies were planted: those given, unless a subclass turns them before.

        Args:
            image: ``(B, C, H, W)``, floating point, in ``[0, 1]``, as given to :meth:`forge`.
            params: Parameters of an earlier call; those of the last if ``None``.

        Returns:
            ``(B, C, H, W)``; forged images equal them outside their masks.
        """
        del params
        return image

    def check_paths(self, paths: Sequence[str]) -> None:
        """Check, before a training, that what :meth:`forge` looks up by images' files is there; nothing by default.

        Raises:
            FileNotFoundError: If it is not.
            ValueError: If it is ambiguous.
        """

    def complete_parameters(self, params: dict[str, Tensor], image: Tensor, paths: Sequence[str] | None) -> None:
        """Add to freshly drawn ``params`` what depends on the images or their files; nothing by default."""


def find_changed(after: Tensor, before: Tensor) -> Tensor:
    """Find the pixels of ``(B, C, H, W)`` images that changed by more than :data:`VISIBLE`: bool ``(B, 1, H, W)``."""
    return ((after - before).abs() > VISIBLE).any(1, keepdim=True)


def constant(values: Sequence[float] | Sequence[Sequence[float]], device: torch.device) -> Tensor:
    """Bring numbers to a device; made there by ``torch.tensor(..., device=device)`` they would make the host wait."""
    return torch.tensor(values).to(device, non_blocking=True)


def under_prefix(prefix: str, params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Pick the parameters whose names start with ``prefix``, which is those of a transform within another, without it.

    The very same tensors: what a transform writes into them stays known for a replay.
    """
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}


def in_parts(image_size: tuple[int, int], *values: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split values along their first dimension, each into the same number of parts, however large the batch is.

    What a CPU writes into fresh memory waits for the system to hand out every page of it; intermediate results of a
    part go where those of the part before went. Elsewhere, and for small images, one part is all.
    """
    is_worth_it = values[0].device.type == "cpu" and math.prod(image_size) >= WORTH_PARTS
    return zip(*(value.tensor_split(PARTS if is_worth_it else 1) for value in values), strict=True)


def per_image(values: Tensor, image: Tensor) -> Tensor:
    """Shape one value an image, ``(B,)``, to ``(B, 1, 1, 1)`` on the image's device, so that it broadcasts."""
    return values.to(image.device, non_blocking=True).view(-1, 1, 1, 1)


def move_pixels(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Fill each pixel of ``(B, C, H, W)`` images from the row and column given for it, each ``(B, H, W)`` int64."""
    index = (rows * image.shape[-1] + columns).flatten(1)
    moved = image.flatten(2).gather(2, index[:, None].expand(-1, image.shape[1], -1))
    return moved.view_as(image)
