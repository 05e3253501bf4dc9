"""Base of all transforms: pure functions to implement, and the adapter that makes them kornia augmentations."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from kornia.augmentation import IntensityAugmentationBase2D
from torch import Tensor
from typing_extensions import Self

from anomalib_anoseg.common.checks import check_value
from anomalib_anoseg.transforms._tensors import as_batch, check_images, on_device, per_image, rows_of, with_channel
from anomalib_anoseg.transforms.random_stream import RandomStream


class ForgedBatch(NamedTuple):
    """Images with synthetic anomalies and the masks that mark them.

    Attributes:
        image: ``(B, C, H, W)``, in ``[0, 1]``, with the dtype and device of the input.
        mask: ``(B, 1, H, W)``, same dtype and device, 1 = anomalous and 0 = normal.
    """

    image: Tensor
    mask: Tensor


class SeededAugmentation(IntensityAugmentationBase2D):
    """A kornia augmentation that can draw from its own random stream.

    Subclasses implement :meth:`draw_parameters`, which draws everything random, and :meth:`change`, which depends only
    on an image and these parameters. So calls can be replayed, masks follow their images, and no loop over the batch is
    needed. kornia draws only from the global stream; :meth:`manual_seed` gives a transform its own generator, so that
    two runs see the same anomalies whatever else draws random numbers.

    Args:
        p: Probability of transforming an image, in ``[0, 1]``, drawn separately for each image of a batch.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape instead of becoming ``(1, C, H, W)``.

    Raises:
        ValueError: If ``p`` is outside ``[0, 1]``.
    """

    generator: torch.Generator | None = None

    def __init__(self, p: float = 1.0, keepdim: bool = False) -> None:
        check_value("p", p, 0.0, 1.0)
        super().__init__(p=p, keepdim=keepdim)
        self.disable_features = True  # kornia 0.8 would keep a copy of each output on the host, and wait for it

    def draw_parameters(self, shape: Sequence[int], stream: RandomStream) -> dict[str, Tensor]:
        """Draw the parameters for images of ``shape``, ``(B, C, H, W)``, each with ``B`` rows."""
        raise NotImplementedError

    def change(self, image: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Change all ``(B, C, H, W)`` images, regardless of the gate ``p``."""
        raise NotImplementedError

    def change_mask(self, mask: Tensor, params: dict[str, Tensor], /) -> Tensor:
        """Move the pixels of ``(B, 1, H, W)`` masks as :meth:`change` does in images; by default, not at all."""
        del params
        return mask

    @staticmethod
    def is_chosen(params: dict[str, Tensor], image: Tensor) -> Tensor:
        """Find the images that the gate ``p`` chose: bool, ``(B, 1, 1, 1)``. Without a gate, these are all."""
        gate = params["batch_prob"] if "batch_prob" in params else image.new_ones(len(image))
        return per_image(gate > 0.5, image)  # noqa: PLR2004

    def manual_seed(self, seed: int) -> Self:
        """Draw from the transform's own generator, on its device, from now on, starting at ``seed``.

        Copies go on alike: all workers of a data loader would forge the same. Call it in ``worker_init_fn``, or not.
        """
        if self.generator is None:
            self.generator = torch.Generator(self.device)
        self.generator.manual_seed(seed)
        return self

    def set_rng_device_and_dtype(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move to ``device``: a generator belongs to one device, so it starts there again from its seed.

        Nested transforms move, too; older kornia's ``to`` does not move them.
        """
        super().set_rng_device_and_dtype(device, dtype)
        for part in self.children():
            for transform in part.modules():
                if isinstance(transform, SeededAugmentation):
                    transform.set_rng_device_and_dtype(device, dtype)
        if self.generator is not None and self.generator.device != device:
            self.generator = torch.Generator(device).manual_seed(self.generator.initial_seed())

    def draw(self, shape: Sequence[int], stream: RandomStream | None = None) -> dict[str, Tensor]:
        """Draw all parameters of a batch, the gate ``p`` among them.

        Args:
            shape: Shape of the images, ``(B, C, H, W)``.
            stream: Random stream; the transform's own if ``None``.

        Returns:
            The parameters that the class describes, and kornia's ``batch_prob`` ``(B,)``, 1 for the images to
            transform, and ``forward_input_shape``.

        Raises:
            ValueError: If a container set ``same_on_batch``.
        """
        if self.same_on_batch:
            raise ValueError(f"{type(self).__name__} draws anew for each image: leave out same_on_batch=True.")
        stream = RandomStream(self.device, self.generator) if stream is None else stream
        params = self.draw_parameters(shape, stream)
        params["batch_prob"] = (stream.uniform((shape[0],), 0.0, 1.0) < self.p).float()
        params["forward_input_shape"] = torch.tensor(shape)
        return params

    def forward_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw all parameters of a batch; kornia's name for :meth:`draw`."""
        return self.draw(batch_shape)

    def forward(self, input: Tensor, params: dict[str, Tensor] | None = None, **kwargs: object) -> Tensor:
        """Transform images.

        This replaces kornia's version. That one runs under autocast, which rounds colours and positions. It also copies
        ``params`` if a container calls it, and waits for the device in older releases.

        Args:
            input: ``(B, C, H, W)`` or ``(C, H, W)``, floating point, in ``[0, 1]``.
            params: Parameters of an earlier call to replay; drawn anew if ``None``.
            **kwargs: Ignored; containers pass some.

        Returns:
            ``(B, C, H, W)``, or the shape of ``input`` with ``keepdim``.
        """
        del kwargs
        image = check_images(input)
        self._params = self.draw(image.shape) if params is None else params
        with torch.autocast(image.device.type, enabled=False):
            output = self.transform_inputs(image, self._params)
        return output.view_as(input) if self.keepdim else output

    def transform_inputs(self, input: Tensor, params: dict[str, Tensor], *args: object, **kwargs: object) -> Tensor:
        """Change the ``(B, C, H, W)`` images that the gate chose; further arguments of containers are ignored."""
        del args, kwargs
        params = on_device(params, input.device)
        return torch.where(self.is_chosen(params, input), self.change(input, params), input)

    def transform_masks(
        self, input: Tensor, params: dict[str, Tensor] | None = None, *args: object, **kwargs: object
    ) -> Tensor:
        """Transform masks, ``(B, 1, H, W)`` or ``(B, H, W)``, like the last images, or by ``params``."""
        del args, kwargs
        params = on_device(self._params if params is None else params, input.device)
        mask = with_channel(input)
        return torch.where(self.is_chosen(params, mask), self.change_mask(mask, params), mask).view_as(input)

    @property
    def transform_matrix(self) -> Tensor:
        """The identity, ``(B, 3, 3)``, for containers: no transform here is a geometric warp that they could undo."""
        return torch.eye(3, device=self.device).expand(len(self._params["batch_prob"]), 3, 3)

    def transform_boxes(self, *args: object, **kwargs: object) -> Tensor:  # noqa: D102
        raise NotImplementedError(f"{type(self).__name__} handles images and masks; boxes have no meaning here.")

    def transform_keypoints(self, *args: object, **kwargs: object) -> Tensor:  # noqa: D102
        raise NotImplementedError(f"{type(self).__name__} handles images and masks; keypoints have no meaning here.")


class SyntheticAnomaly(SeededAugmentation):
    """A transform that plants anomalies and returns their masks.

    Subclasses implement :meth:`draw_parameters` and :meth:`plant`; :meth:`forge` does both. Within
    ``AugmentationSequential(..., data_keys=["input", "mask"])`` the anomalies are added to the given mask.
    """

    # Whether an image's anomaly depends on the other images of the batch; if not, `plant_some` plants in a part of it.
    needs_batch: bool = True
    _gives_masks: bool = False
    # For the mask that kornia's container sends after its image, and without it: the last images' parameters, and their
    # anomalies' masks, which depend on the images.
    _planted: tuple[dict[str, Tensor], Tensor] | None = None

    def plant(self, image: Tensor, params: dict[str, Tensor]) -> ForgedBatch:
        """Plant anomalies in the images that the gate chose.

        A pure function: equal arguments give equal results, and nothing is written into ``params``.

        Args:
            image: ``(B, C, H, W)``, floating point, in ``[0, 1]``.
            params: What :meth:`draw` drew for this shape.

        Returns:
            The images and their masks. An image that the gate skips has an empty mask.
        """
        raise NotImplementedError

    def plant_some(self, image: Tensor, params: dict[str, Tensor], images: Tensor) -> ForgedBatch:
        """Plant anomalies in some images of a batch, the same as :meth:`plant` does in all.

        Args:
            image: ``(B, C, H, W)``, the whole batch.
            params: What :meth:`draw` drew for the whole batch.
            images: ``(K,)`` int64, which images, on their device.

        Returns:
            Those images and their masks, ``K`` of each.
        """
        if self.needs_batch:
            planted = self.plant(image, params)
            return ForgedBatch(planted.image.index_select(0, images), planted.mask.index_select(0, images))
        return self.plant(image.index_select(0, images), rows_of(params, images))

    def forge(
        self,
        image: Tensor,
        params: dict[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
        paths: Sequence[str] | None = None,
    ) -> ForgedBatch:
        """Draw parameters and plant anomalies in normal images.

        Args:
            image: ``(B, C, H, W)`` or ``(C, H, W)``, floating point, in ``[0, 1]``.
            params: Parameters of an earlier call (``self._params``) to replay; drawn anew if ``None``.
            generator: Generator for this call only, on the transform's device; the transform's own stream if ``None``.
            paths: Files of the images, by which :meth:`look_up` finds parameters.

        Returns:
            The images and their masks; of a single image ``(1, C, H, W)``, or its own shape with ``keepdim``. An image
            that the gate ``p`` skips keeps an empty mask.
        """
        is_single, image = image.ndim == 3, check_images(image)  # noqa: PLR2004
        if params is None:
            params = self.draw(image.shape, RandomStream(self.device, generator or self.generator))
            params |= self.look_up(image, paths)
        self._params = params
        with torch.autocast(image.device.type, enabled=False):
            planted = self.plant(image, params)
        self._planted = dict(params), planted.mask
        return ForgedBatch(planted.image[0], planted.mask[0]) if is_single and self.keepdim else planted

    def rotate(self, image: Tensor, params: dict[str, Tensor] | None = None) -> Tensor:
        """Return the normal images in which anomalies were planted: as given, unless a subclass rotates them first.

        Args:
            image: ``(B, C, H, W)`` or ``(C, H, W)``, floating point, in ``[0, 1]``, as given to :meth:`forge`.
            params: Parameters of an earlier call; those of the last if ``None``.

        Returns:
            ``(B, C, H, W)``; forged images equal them outside their masks.
        """
        del params
        return as_batch(image)

    def name_kinds(self, params: dict[str, Tensor] | None = None) -> list[str]:
        """Name the kind of each image's anomaly, of the last call or by ``params``; empty where there is only one."""
        return [""] * len((self._params if params is None else params)["batch_prob"])

    def check_paths(self, paths: Sequence[str]) -> None:
        """Check before training the files that :meth:`forge` looks up, by their headers; by default, check nothing.

        Raises:
            FileNotFoundError: If something is missing.
            ValueError: If something is ambiguous, or no picture.
        """

    def look_up(self, image: Tensor, paths: Sequence[str] | None) -> dict[str, Tensor]:
        """Find the parameters that depend on the images or their files; by default, there are none."""
        del image, paths
        return {}

    def with_masks(self) -> Self:
        """Return masks as well from now on if called with images only, as anomalib's ``Draem`` expects.

        Returns:
            The transform itself: ``transform(image)`` now is ``transform.forge(image)``. Nothing changes in a
            container.
        """
        self._gives_masks = True
        return self

    def forward(self, input: Tensor, params: dict[str, Tensor] | None = None, **kwargs: object) -> Tensor | ForgedBatch:
        """Plant anomalies in images, see :meth:`SeededAugmentation.forward` and :meth:`with_masks`."""
        if self._gives_masks and params is None:
            return self.forge(input)
        return super().forward(input, params, **kwargs)

    def transform_inputs(self, input: Tensor, params: dict[str, Tensor], *args: object, **kwargs: object) -> Tensor:
        """Plant anomalies in ``(B, C, H, W)`` images, and store where, for a mask that may follow."""
        del args, kwargs
        return self.forge(input, params).image

    def transform_masks(
        self, input: Tensor, params: dict[str, Tensor] | None = None, *args: object, **kwargs: object
    ) -> Tensor:
        """Rotate masks, ``(B, 1, H, W)`` or ``(B, H, W)``, with their images and mark the anomalies in them.

        Raises:
            ValueError: If the last images were not those of ``params``: the places of anomalies depend on the images.
        """
        del args, kwargs
        params = self._params if params is None else params
        planted_by, planted = self._planted or ({}, None)
        if planted is None or any(planted_by.get(name) is not value for name, value in params.items()):
            raise ValueError("A mask follows its image: transform the image by these parameters first.")
        mask = with_channel(input)
        levels = mask if mask.is_floating_point() else mask.float()
        rotated = self.rotate(levels, params)
        rotated = mask if rotated is levels else rotated.round().to(mask.dtype)
        return rotated.masked_fill(planted.to(input.device, torch.bool, non_blocking=True), 1).view_as(input)
