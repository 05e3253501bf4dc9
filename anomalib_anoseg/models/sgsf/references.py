"""References of training images: the most similar other training images, which NIGSF calls the contrast set.

They are read once when training starts, as test images are read, without the random augmentations of training. They are
kept as 8-bit values within a limit on memory.
"""

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from tqdm import tqdm

from anomalib_anoseg.models.sgsf.neighbours import Choice, choose_representatives, medoid, nearest_others
from anomalib_anoseg.training.reading_once import served_reader

# Images through the feature extractor at once.
CHUNK = 16
MEBIBYTE = 2**20
# Seconds of reading after which a progress bar appears.
PATIENCE = 1.0
NO_PATH = (
    "SGSF finds the references of a training image by its image_path, which is missing. Use one of anomalib's data "
    "modules, set image_path in the items and batches of your own, or train with guidance.kind=none."
)


@dataclass(frozen=True)
class ReferenceSet:
    """Training images that serve as references for each other. All tensors are on the host.

    Attributes:
        images: ``(K, 3, H, W)`` uint8, no two of them equal.
        embeddings: ``(K, D)``, their embeddings, of length 1.
        rows: The row in ``own`` and ``similar`` of every training image, by its path.
        own: ``(N,)`` int64, the index in ``images`` of each training image itself, -1 if it is not there.
        similar: ``(N, n)`` int64, the indices of the most similar others, most similar first; ``None`` if any other may
            serve.
    """

    images: Tensor
    embeddings: Tensor
    rows: dict[str, int]
    own: Tensor
    similar: Tensor | None = None

    def draw(self, paths: Sequence[str] | None, generator: torch.Generator | None = None) -> Tensor:
        """Draw a reference for each image of a batch.

        Args:
            paths: Files of the batch's images.
            generator: Random stream on the host; the global one if ``None``.

        Returns:
            ``(B, 3, H, W)`` uint8.

        Paths that are missing, or not of training images, raise a ``ValueError``.
        """
        return self.images[self.choose(paths, generator)]

    def choose(self, paths: Sequence[str] | None, generator: torch.Generator | None = None) -> Tensor:
        """Draw as :meth:`draw` does, but return indices into ``images``, ``(B,)`` int64."""
        row = self._find(paths)
        if self.similar is not None:
            return self.similar[row, torch.randint(self.similar.shape[1], row.shape, generator=generator)]
        # Any image but itself: draw from one fewer, and skip its own index.
        own = self.own[row]
        count = len(self.images) - (own >= 0).long()
        place = (torch.rand(row.shape, dtype=torch.float64, generator=generator) * count).long()
        return place + ((own >= 0) & (place >= own)).long()

    def _find(self, paths: Sequence[str] | None) -> Tensor:
        if paths is None:
            raise ValueError(NO_PATH)
        unknown = [path for path in paths if str(path) not in self.rows]
        if unknown:
            raise ValueError(
                f"{unknown[0]} is not among the {len(self.rows)} training images found at the start of training. Do "
                "not change the training images until it ends."
            )
        return torch.tensor([self.rows[str(path)] for path in paths])

    def choose_bank(self, count: int, method: Choice, seed: int) -> tuple[Tensor, Tensor]:
        """Choose the references for inference.

        Args:
            count: How many at most; 1 takes the medoid.
            method: How representatives are chosen if there are more.
            seed: Of that choice.

        Returns:
            Images ``(K, 3, H, W)`` uint8 and embeddings ``(K, D)``.
        """
        chosen = self.choose_places(count, method, seed)
        return self.images[chosen], self.embeddings[chosen]

    def choose_places(self, count: int, method: Choice, seed: int) -> Tensor:
        """Choose as :meth:`choose_bank` does: places among ``images``, ``(K,)`` int64."""
        if count == 1:
            return medoid(self.embeddings).view(1)
        if count < len(self.images):
            return choose_representatives(self.embeddings, count, method, seed)
        return torch.arange(len(self.images))

    def find_own(self, paths: Sequence[str] | None) -> Tensor:
        """Find the place of each image of a batch among ``images``: ``(B,)`` int64, -1 where it is not there."""
        return self.own[self._find(paths)]


def collect_references(
    dataset: Any,  # noqa: ANN401
    transforms: Sequence[Callable[[Tensor], Tensor] | None],
    embed: Callable[[Tensor], Tensor],
    size: int | None = 5,
    include_itself: bool = False,
    memory: float = 1024.0,
    mask_images: Callable[[Tensor], Tensor] | None = None,
) -> ReferenceSet:
    """Read every training image once, and find its references.

    Args:
        dataset: Training images; items with ``image``, ``(3, H, W)`` in ``[0, 1]``, and ``image_path``. Augmentations
            of its own are left out.
        transforms: Transforms of the images instead, in this order.
        embed: Maps ``(B, 3, H, W)`` images in ``[0, 1]`` to embeddings ``(B, D)`` of length 1 on the host.
        size: References per image, fewer if there are not enough; ``None`` for all.
        include_itself: Whether an image may be its own reference, which the paper warns against.
        memory: Mebibytes that the references may take. If the images take more, evenly spaced ones serve.
        mask_images: Makes grey what does not count, after the transforms, also in images that have been read before.

    Returns:
        The references of each image. Equal images count as one, so that none is compared with a copy of itself.

    Raises:
        ValueError: If there are fewer than two different images, they differ in size, or lack their paths.
    """
    rows: dict[str, int] = {}
    row_of_content: dict[bytes, int] = {}
    kept: list[Tensor] = []
    embeddings: list[Tensor] = []
    spacing = 1
    for chunk in _read_chunks(dataset, transforms, mask_images):
        fresh = []
        for path, image in chunk:
            if not kept:
                spacing = _find_spacing(len(dataset), image.numel(), memory)
            content = hashlib.blake2b(image.numpy().tobytes()).digest()
            if content not in row_of_content:
                row_of_content[content] = len(row_of_content)
                fresh.append(image)
                kept += [image] if row_of_content[content] % spacing == 0 else []
            rows[path] = row_of_content[content]
        if fresh:
            embeddings.append(embed(_stack(fresh).float() / 255))
    if len(kept) < 2:  # noqa: PLR2004
        raise ValueError(
            f"SGSF compares each training image with a different one, but found {len(kept)} different of "
            f"{len(dataset)} training images. Add images, or train with guidance.kind=none."
        )
    everything, images = torch.cat(embeddings), _stack(kept)
    own = torch.arange(len(everything))
    own = torch.where(own % spacing == 0, own // spacing, -1)
    references = everything[::spacing]
    if size is None:
        return ReferenceSet(images, references, rows, own)
    hidden = torch.full_like(own, -1) if include_itself else own
    size = min(size, len(images) - (not include_itself))
    return ReferenceSet(images, references, rows, own, nearest_others(everything, references, hidden, size))


def _read_chunks(
    dataset: Any,  # noqa: ANN401
    transforms: Sequence[Callable[[Tensor], Tensor] | None],
    mask_images: Callable[[Tensor], Tensor] | None,
) -> Iterator[list[tuple[str, Tensor]]]:
    """Read the images of a data set.

    Yields:
        Paths and images ``(3, H, W)`` uint8, some at a time.
    """
    read: Callable[[int], Any] | None = served_reader(dataset, transforms)
    remaining = (*(transforms if read is None else ()), mask_images)
    if read is None:
        plain = copy.copy(dataset)
        if hasattr(plain, "augmentations"):
            plain.augmentations = None
        read = plain.__getitem__
    with tqdm(total=len(dataset), desc="Reading references", unit="image", leave=False, delay=PATIENCE) as bar:
        for start in range(0, len(dataset), CHUNK):
            items = [read(index) for index in range(start, min(start + CHUNK, len(dataset)))]
            yield [_finish(item, remaining) for item in items]
            bar.update(len(items))


def _finish(item: Any, transforms: Sequence[Callable[[Tensor], Tensor] | None]) -> tuple[str, Tensor]:  # noqa: ANN401
    if getattr(item, "image_path", None) is None:
        raise ValueError(NO_PATH)
    image: Tensor = item.image
    for transform in transforms:
        image = image if transform is None else transform(image)
    return str(item.image_path), (image.as_subclass(Tensor).clamp(0, 1) * 255).round().to(torch.uint8)


def _stack(images: list[Tensor]) -> Tensor:
    sizes = {tuple(image.shape) for image in images}
    if len(sizes) > 1:
        raise ValueError(
            f"References must have one size, got {sorted(sizes)}. Let pre_processor resize them to (height, width)."
        )
    return torch.stack(images)


def _find_spacing(count: int, size: int, memory: float) -> int:
    """Compute the spacing of the images to keep, so that they fit into memory.

    Raises:
        ValueError: If two do not fit.
    """
    fitting = int(memory * MEBIBYTE / size)
    if fitting < 2:  # noqa: PLR2004
        raise ValueError(
            f"guidance.memory must hold two images of {size / MEBIBYTE:.3g} MiB at least, got {memory} MiB."
        )
    spacing = -(-count // fitting)
    if spacing > 1:
        rank_zero_warn(
            f"guidance.memory of {memory} MiB holds {fitting} of {count} training images: one in {spacing} serves as "
            "a reference."
        )
    return spacing
