"""The references that a trained model carries, so that it predicts without its training images."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from anomalib_anoseg.models.sgsf.neighbours import closeness, medoid

Precision = Literal["float32", "float16"]
DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}
NO_REFERENCES = "There are no references yet: train the model, or load a checkpoint of a trained one."


class ReferenceBank(nn.Module):
    """Reference images, their embeddings, and, for speed, the features that the segmentation network needs.

    A checkpoint holds images and embeddings, of any number and size, whatever the bank held before. It does not hold
    the features, which can be computed again; an exported model does.

    Args:
        precision: Of stored features; ``"float16"`` halves their size.
        single: Whether it keeps only the medoid of the references: the one most similar to all.

    Attributes:
        images: ``(K, 3, H, W)`` uint8, normal images.
        embeddings: ``(K, D)`` float32 of length 1.

    Example:
        >>> import torch
        >>> bank = ReferenceBank()
        >>> bank.fill(torch.randint(256, (4, 3, 32, 48), dtype=torch.uint8), torch.eye(4))
        >>> bank.nearest(torch.tensor([[0.0, 0.6, 0.8, 0.0]])).tolist()
        [2]
    """

    images: Tensor
    embeddings: Tensor

    def __init__(self, precision: Precision = "float16", single: bool = False) -> None:
        super().__init__()
        self.dtype, self.single = DTYPES[precision], single
        self.register_buffer("images", torch.zeros(0, 3, 0, 0, dtype=torch.uint8))
        self.register_buffer("embeddings", torch.zeros(0, 0))
        self._stored = 0

    def __len__(self) -> int:
        """Count the references."""
        return len(self.embeddings)

    def fill(self, images: Tensor, embeddings: Tensor) -> None:
        """Replace the references.

        Args:
            images: ``(K, 3, H, W)`` uint8, K at least 1.
            embeddings: ``(K, D)``.

        Raises:
            ValueError: If they have other shapes or another dtype.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:  # noqa: PLR2004
            raise ValueError(f"images must be uint8 (K, 3, H, W), got {images.dtype} {tuple(images.shape)}.")
        if embeddings.ndim != 2 or not len(embeddings) == len(images) > 0:  # noqa: PLR2004
            raise ValueError(
                f"embeddings must be (K, D), one for each of the K >= 1 images, got {tuple(embeddings.shape)} "
                f"for {len(images)} images."
            )
        device = self.embeddings.device
        self.images, self.embeddings = images.to(device).clone(), embeddings.to(device, torch.float32).clone()
        self.forget()
        self._keep_medoid()

    def _keep_medoid(self) -> None:
        if not self.single or len(self) < 2:  # noqa: PLR2004
            return
        middle = medoid(self.embeddings)[None]
        self.fill(self.images[middle], self.embeddings[middle])

    def check_size(self, image: Tensor) -> None:
        """Check that ``(B, 3, H, W)`` images can be compared with the references, pixel by pixel.

        Raises:
            RuntimeError: If there are no references.
            ValueError: If they are of another size.
        """
        if not len(self):
            raise RuntimeError(NO_REFERENCES)
        if image.shape[-2:] != self.images.shape[-2:]:
            height, width = self.images.shape[-2:]
            raise ValueError(
                f"The references are {height}x{width} pixels, the image is {image.shape[-2]}x{image.shape[-1]}. Resize "
                f"it, as the model's pre-processor does, or train with image_size=({image.shape[-2]}, "
                f"{image.shape[-1]})."
            )

    def nearest(self, embedding: Tensor) -> Tensor:
        """Find the most similar reference for each of ``(B, D)`` embeddings: ``(B,)`` int64."""
        return closeness(embedding, self.embeddings).argmax(1)

    def pictures(self, index: Tensor | None) -> Tensor:
        """Read references as ``(B, 3, H, W)`` float32 in ``[0, 1]``.

        Args:
            index: ``(B,)`` int64, or ``None`` for all of them.
        """
        return self._pick(self.images, index).float() / 255

    def store(self, prepared: Sequence[Tensor]) -> None:
        """Store the features that the segmentation network needs of each reference, tensors ``(K, C, h, w)``."""
        self.forget()
        for place, tensor in enumerate(prepared):
            self.register_buffer(f"prepared_{place}", tensor.to(self.dtype), persistent=False)
        self._stored = len(prepared)

    def stored(self, index: Tensor | None) -> list[Tensor]:
        """Read the stored features, in their own precision.

        Args:
            index: ``(B,)`` int64, or ``None`` for all of them.
        """
        return [self._pick(self.get_buffer(f"prepared_{place}"), index) for place in range(self._stored)]

    @property
    def has_stored(self) -> bool:
        """Whether features are stored."""
        return self._stored > 0

    def forget(self) -> None:
        """Discard the stored features, because references or networks have changed."""
        for place in range(self._stored):
            delattr(self, f"prepared_{place}")
        self._stored = 0

    def drop_images(self) -> None:
        """Drop the images, and keep the features stored of them."""
        self.images = self.images[:0]

    @staticmethod
    def _pick(tensor: Tensor, index: Tensor | None) -> Tensor:
        # Unlike index_select, this keeps the memory layout, channels-last or not.
        return tensor if index is None else tensor[index]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        """Take over the shapes of the loaded references, and discard features of the former ones."""
        for name in ("images", "embeddings"):
            loaded, own = state_dict.get(prefix + name), getattr(self, name)
            if loaded is not None and loaded.shape != own.shape:
                setattr(self, name, own.new_zeros(loaded.shape))
        self.forget()
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._keep_medoid()
