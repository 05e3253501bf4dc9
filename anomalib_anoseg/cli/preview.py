"""The subcommand `preview`: anomalies forged on the user's own images, to be seen before hours of training."""

import csv
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from anomalib.data import AnomalibDataModule, Folder
from anomalib.models import AnomalibModule
from anomalib.utils.path import create_versioned_dir
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.common.contact_sheet import compose_sheet
from anomalib_anoseg.common.files import remove_leftovers, written_whole
from anomalib_anoseg.common.presets import read_preset
from anomalib_anoseg.models.ignored_region import read_region
from anomalib_anoseg.models.self_supervised import SelfSupervisedModel
from anomalib_anoseg.models.settings import changed_settings
from anomalib_anoseg.training.data_folders import NO_TRAINING_IMAGES, DataFolders, set_up
from anomalib_anoseg.training.file_checks import check_image_files, check_shapes
from anomalib_anoseg.training.input_checks import check_images, check_pre_processor
from anomalib_anoseg.training.seeding import seeded_streams
from anomalib_anoseg.transforms import SyntheticAnomaly

__all__ = ["ForgedImage", "Preview", "preview"]

DEFAULT_FOLDER = Path("results/preview")
DEFAULT_PRESET = "laptop"
CHUNK = 8  # images that are forged at once, which limits memory


@dataclass(frozen=True)
class ForgedImage:
    """One line of a preview's table.

    Attributes:
        image: File that the anomaly was forged on.
        name: Name of its three pictures in the folders ``normal``, ``forged`` and ``mask``.
        share: Fraction of the picture that its mask marks, in ``[0, 1]``; 0 without an anomaly.
        change: Mean absolute change inside the mask, in grey levels, ``[0, 255]``; 0 if the mask is empty.
        kind: Name of the kind of anomaly; empty if there is only one.
    """

    image: str
    name: str
    share: float
    change: float
    kind: str = ""


@dataclass(frozen=True)
class Preview:
    """Result of :func:`preview`.

    Attributes:
        folder: Holds ``sheet.png``, ``images.csv`` and the folders ``normal``, ``forged`` and ``mask``.
        images: One entry per image.
        data: Name of the data.
        available: Number of training images from which these were chosen.
        seed: Seed that gives the same files again.
    """

    folder: Path
    images: tuple[ForgedImage, ...]
    data: str
    available: int
    seed: int

    @property
    def sheet(self) -> Path:
        """The contact sheet."""
        return self.folder / "sheet.png"

    @property
    def empty(self) -> int:
        """Number of images without a visible anomaly."""
        return sum(image.share == 0 for image in self.images)


class _Pictures(NamedTuple):
    """8-bit pictures: ``normal`` and ``forged`` ``(N, 3, H, W)`` uint8, ``mask`` ``(N, 1, H, W)`` bool."""

    normal: Tensor
    forged: Tensor
    mask: Tensor
    kinds: list[str]


def preview(
    model: AnomalibModule | None = None,
    data: AnomalibDataModule | None = None,
    images: Path | None = None,
    out: Path | None = None,
    number: int = 8,
    seed: int = 0,
    trainer: dict[str, Any] | str | None = None,
) -> Preview:
    """Show the anomalies that a model will forge on your images, before you train it on them.

    Takes the model, data and configuration files of ``anomalib train``. Images go through the data module's
    augmentations and the model's pre-processor as in training; only those that are shown are read. Writes a contact
    sheet and, in the layout of anomalib's ``Folder`` data sets, the pictures themselves.

    Args:
        model: A model that learns from forged anomalies, with its settings; by default, that of the preset ``laptop``.
        data: A data module, whose training images are shown.
        images: A folder of normal images, including its subfolders, in place of ``data``.
        out: Folder to write to; must be new or empty. By default ``results/preview/v0``, ``v1``, ..., with a link
            ``results/preview/latest`` to the newest.
        number: How many images to show.
        seed: Chooses the images and the anomalies: equal seeds give equal files.
        trainer: Ignored; accepted because configuration files for training have it.

    Returns:
        Where the files are, and how large and how visible the anomalies are.

    Raises:
        ValueError: If the model forges no anomalies, there are no images, or one of them cannot be used.
        FileExistsError: If ``out`` is not an empty folder.

    Example:
        >>> from tempfile import mkdtemp
        >>> from anomalib_anoseg import AnoSeg
        >>> from anomalib_anoseg.data import DemoTextures
        >>> folder = Path(mkdtemp())
        >>> model, data = AnoSeg((64, 64), network={"width": 0.125}), DemoTextures(folder, num_train=8, image_size=64)
        >>> made = preview(model, data, out=folder / "preview", number=2)  # doctest: +ELLIPSIS
        Forged on 2 of 7 training images, seed 0:...
        >>> made.sheet.name, len(made.images)
        ('sheet.png', 2)
    """
    del trainer
    if model is None:
        model = _create_default_model()
    augmenter = _find_augmenter(model)
    if number < 1:
        raise ValueError(f"number must be 1 or more, got {number}.")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be a whole number, 0 <= seed < 2**32, got {seed}.")
    if out is not None and out.is_dir():
        remove_leftovers(out)
    if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f"out: {out} is not an empty folder. Name another one, or remove it.")
    progress, console = Console(stderr=True), Console()
    with seeded_streams(seed), torch.no_grad():
        training_data = _set_up(_choose_data(data, images), model, images)
        available = len(training_data.train_data)
        chosen = torch.randperm(available)[:number].sort().values.tolist()
        image, paths = _read(model, training_data, chosen, progress)
        pictures = _forge(_spare_ignored(model, augmenter, paths), image, paths, seed, progress)
    forged = _measure(pictures, paths)
    name = " ".join(filter(None, (training_data.name, training_data.category)))
    made = Preview(out or create_versioned_dir(DEFAULT_FOLDER), forged, name, available, seed)
    sheet = compose_sheet(*pictures[:3], [_caption(image) for image in forged], _describe(model, made))
    _write(made, pictures, sheet, progress)
    _print(made, augmenter.p, console)
    return made


def _create_default_model() -> AnomalibModule:
    Console(stderr=True).print(f"No model is given: using the preset {DEFAULT_PRESET!r}, AnoSeg for a laptop.")
    return AnoSeg(**read_preset(DEFAULT_PRESET)["model"]["init_args"])


def _find_augmenter(model: AnomalibModule) -> SyntheticAnomaly:
    augmenter = getattr(model, "augmenter", None)
    if isinstance(augmenter, SyntheticAnomaly):
        return augmenter
    raise ValueError(
        f"{type(model).__name__} forges no anomalies that could be shown: its `augmenter` is not a `SyntheticAnomaly`. "
        "Choose a model of this package, such as AnoSeg."
    )


def _spare_ignored(model: Any, augmenter: SyntheticAnomaly, paths: Sequence[str]) -> SyntheticAnomaly:  # noqa: ANN401
    """Let nothing be forged in the region that does not count, which is grey, as the model sees it."""
    if not isinstance(model, SelfSupervisedModel):
        return augmenter
    if (size := read_region(model)) is not None:
        check_shapes(size, paths)
    outside: SyntheticAnomaly = model.region.outside(augmenter)
    return outside


def _choose_data(data: AnomalibDataModule | None, images: Path | None) -> AnomalibDataModule:
    if images is None:
        if data is None:
            raise ValueError("Give a data module as `data`, or a folder with pictures as `images`.")
        return data
    if not images.is_dir():
        raise ValueError(f"images: {images} is not a folder. Check its spelling.")
    path = images.absolute()  # anomalib would look for a relative one below its own folder of data sets
    folder = Folder(path.name, path, test_split_mode="none", val_split_mode="none", num_workers=0)
    if not DataFolders.of(folder).pictures:
        raise ValueError(f"images: there are no pictures in {images}. Name a folder with good parts.")
    return folder


def _set_up(data: AnomalibDataModule, model: AnomalibModule, images: Path | None) -> AnomalibDataModule:
    check_pre_processor(model.pre_processor)
    # In training the model's resize becomes part of the augmentations; data modules look for it here.
    trainer: Any = SimpleNamespace(model=model)
    data.trainer, before = trainer, data.trainer
    try:
        set_up(data)
    except ValueError as error:
        raise ValueError(f"images: {error}" if images else str(error)) from error
    finally:
        data.trainer = before
    if len(data.train_data) == 0:
        raise ValueError(NO_TRAINING_IMAGES)
    return data


def _read(
    model: AnomalibModule, data: AnomalibDataModule, chosen: list[int], console: Console
) -> tuple[Tensor, list[str]]:
    """Read training images as they reach the networks, ``(N, 3, H, W)`` in ``[0, 1]``, and name their files."""
    dataset = data.train_data.subsample(chosen)
    paths = [str(path) for path in dataset.samples.image_path]
    check_image_files(paths)
    progress = track(range(len(paths)), "Reading images", console=console, transient=True)
    batch: Any = (data.external_collate_fn or dataset.collate_fn)([dataset[index] for index in progress])
    pre_processor: Any = model.pre_processor
    if pre_processor:
        pre_processor.on_train_batch_start(None, model, batch, 0)
    check_images(batch.image, "what the pre_processor makes of them")
    return batch.image, paths


def _forge(augmenter: SyntheticAnomaly, image: Tensor, paths: list[str], seed: int, console: Console) -> _Pictures:
    generator = torch.Generator(image.device).manual_seed(seed)
    batches, kinds = [], []
    for start in track(range(0, len(paths), CHUNK), "Forging anomalies", console=console, transient=True):
        chunk = slice(start, start + CHUNK)
        forged, mask = augmenter.forge(image[chunk], generator=generator, paths=paths[chunk])
        batches.append((augmenter.rotate(image[chunk]), forged, mask))
        kinds += augmenter.name_kinds()
    normal, forged, mask = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return _Pictures(_to_grey_levels(normal), _to_grey_levels(forged), mask.bool(), kinds)


def _to_grey_levels(image: Tensor) -> Tensor:
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def _measure(pictures: _Pictures, paths: Sequence[str]) -> tuple[ForgedImage, ...]:
    rows = []
    for number, (path, kind, mask) in enumerate(zip(paths, pictures.kinds, pictures.mask[:, 0], strict=True)):
        difference = (pictures.forged[number].int() - pictures.normal[number].int()).abs().float().mean(0)
        change = difference[mask].mean().item() if mask.any() else 0.0
        rows.append(ForgedImage(path, f"{number:03}_{Path(path).stem}.png", mask.float().mean().item(), change, kind))
    return tuple(rows)


def _write(made: Preview, pictures: _Pictures, sheet: Image.Image, console: Console) -> None:
    folders = {"normal": pictures.normal, "forged": pictures.forged, "mask": pictures.mask.to(torch.uint8) * 255}
    with written_whole(made.folder) as place:
        for name in folders:
            (place / name).mkdir(parents=True)
        for number, row in enumerate(track(made.images, "Writing pictures", console=console, transient=True)):
            for name, images in folders.items():
                to_pil_image(images[number]).save(place / name / row.name)
        with (place / "images.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(ForgedImage)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in made.images)
        sheet.save(place / made.sheet.name)


def _describe(model: AnomalibModule, made: Preview) -> list[str]:
    """Write the sheet's lines of text: which images it shows, and the settings that are not the model's defaults."""
    settings = [f"{name}={value}".replace(", ", ",") for name, value in changed_settings(model)]  # no line breaks
    part = f"{len(made.images)} of {made.available} training images"
    title = f"{type(model).__name__} on {made.data}: {part}, seed {made.seed}"
    columns = "From left to right: normal image, forged image, mask, forged image with the outline of its mask."
    return [title, f"Settings: {', '.join(settings) or 'defaults'}", columns]


def _caption(image: ForgedImage) -> str:
    text = f"{image.share:.1%} forged, changed by {image.change:.0f} grey levels"
    parts = filter(None, (image.kind, text if image.share else "no visible anomaly"))
    return f"{', '.join(parts)}: {Path(image.image).name}"


def _print(made: Preview, forged_p: float, console: Console) -> None:
    """Print how large and how visible the anomalies are, and where to look at them."""
    visible = [image for image in made.images if image.share]
    table = Table("", "min", "median", "max")
    for name, values, form in (
        ("share of the picture", [image.share for image in visible], "{:.2%}"),
        ("change inside the mask, of 255 grey levels", [image.change for image in visible], "{:.0f}"),
    ):
        numbers = (min(values), statistics.median(values), max(values)) if values else ()
        table.add_row(name, *(form.format(number) for number in numbers))
    console.print(f"Forged on {len(made.images)} of {made.available} training images, seed {made.seed}:")
    console.print(table)
    on_purpose = f"; {1 - forged_p:.0%} stay normal on purpose" if forged_p < 1 else ""
    console.print(f"Without a visible anomaly (empty mask): {made.empty}{on_purpose}")
    console.print(f"Look at {made.sheet}", soft_wrap=True, highlight=False)
