"""anomalib's models with weights and textures from local files.

Each class is anomalib's with other constructor arguments, known to anomalib by its path::

    class_path: anomalib_anoseg.board.baselines.PadimLite0
    init_args: {weights: tf_efficientnet_lite0.pth, image_size: [128, 128]}

PaDiM on an EfficientNet-Lite0 is no published PaDiM: say so in the label of its row.
"""

import dataclasses
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import timm
import torch
from anomalib.models import Draem, Padim, Patchcore, Supersimplenet
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from timm.models import _registry as timm_registry  # noqa: PLC2701

from anomalib_anoseg.board.run.protocol import FORGED_DEFECTS
from anomalib_anoseg.deploy.rebuild import NeedsFiles
from anomalib_anoseg.transforms import DraemPerlin, HardCutPaste

__all__ = ["LocalDraem", "PadimLite0", "PatchcoreLite0", "SupersimplenetLite0"]

LITE0 = "tf_efficientnet_lite0"
LITE0_LAYERS = ("blocks.1", "blocks.2", "blocks.4")  # strides 4, 8 and 16; 24, 40 and 112 channels
FIXED = {"backbone", "pre_trained"}  # arguments of the base class that a checkpoint holds
NOISE_SIDE = 32  # largest number of cells a side of anomalib's Perlin noise; features have a quarter of the image's
NO_PICTURES = Path(__file__).parent  # a folder that exists and holds no pictures
ImageSize = tuple[int, int]


@contextmanager
def local_weights(backbone: str, path: Path | str) -> Generator[None, None, None]:
    """Let timm load a backbone's pre-trained weights from a file, or none at all.

    anomalib's models take the name of a backbone and let timm fetch its weights; they pass no path on, and a built
    module breaks in their feature extraction. So timm's own entry for the name points to the file temporarily.

    Args:
        backbone: timm's name of the architecture.
        path: File with its state dict; ``"random"`` for untrained weights even if the model requests others.

    Raises:
        ValueError: If timm has no pre-trained weights under this name, or the file holds those of another model.
    """
    entries: dict[str, Any] = timm_registry._model_pretrained_cfgs  # noqa: SLF001 - tests notice when it moves
    before = {name: entry for name, entry in entries.items() if name.partition(".")[0] == backbone}
    if not before:
        raise ValueError(f"backbone must be a timm model with pre-trained weights, got {backbone!r}.")
    local = {"url": "", "hf_hub_id": None, "state_dict": _read_weights(backbone, path)}
    try:
        entries.update({name: dataclasses.replace(entry, **local) for name, entry in before.items()})
        yield
    finally:
        entries.update(before)


def _read_weights(backbone: str, path: Path | str) -> dict[str, torch.Tensor]:
    """Read a file of weights.

    Raises:
        ValueError: If they are those of another model.
    """
    if path == "random":
        return {"nothing": torch.empty(0)}  # timm treats an empty one as none
    weights = timm.models.load_state_dict(str(existing("weights", path)))
    missing = timm.create_model(backbone, pretrained=False).state_dict().keys() - weights.keys()
    if missing:
        raise ValueError(
            f"weights: {str(path)!r} does not hold timm's {backbone}: {len(missing)} tensors such as "
            f"{min(missing)!r} are missing."
        )
    return dict(weights)


def existing(name: str, path: Path | str) -> Path:
    """Check that a file or folder is there.

    Raises:
        FileNotFoundError: If it is not; the message names the argument.
    """
    if not Path(path).exists():
        raise FileNotFoundError(
            f"{name}: {str(path)!r} does not exist. Give a local file or folder; nothing is downloaded."
        )
    return Path(path)


class OwnLength:
    """Lets a model set its number of epochs, for anomalib's benchmark, which passes no trainer options on."""

    max_epochs: int | None

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Trainer options that override the user's: the model's own, and ``max_epochs`` if it is set."""
        own: dict[str, Any] = super().trainer_arguments  # type: ignore[misc]
        return own if self.max_epochs is None else {**own, "max_epochs": self.max_epochs}


def _resized(model: AnomalibModule, pre_processor: PreProcessor | bool, size: ImageSize) -> PreProcessor | bool:
    """Configure the model's own pre-processor for a size, unless another is given."""
    return model.configure_pre_processor((size[0], size[1])) if pre_processor is True else pre_processor


def on_lite0(base: type[Any], layers: tuple[str, ...], min_side: int = 1, **defaults: Any) -> type[Any]:  # noqa: ANN401
    """Make a feature-based model use an EfficientNet-Lite0 with weights from a local file.

    The new class takes the arguments of its base except ``backbone`` and ``pre_trained``, and in addition:

    - ``weights``: File with timm's ImageNet weights of ``tf_efficientnet_lite0``; ``"random"`` leaves the features
      untrained, for loading a checkpoint, which brings its own.
    - ``layers``: Blocks whose features are taken.
    - ``image_size``: Height and width in pixels. Defaults to ``(256, 256)``.
    - ``max_epochs``: Number of training epochs, which overrides the trainer's.

    Args:
        base: anomalib's model.
        layers: Blocks whose features are taken by default.
        min_side: Smallest height and width of the images in pixels.
        **defaults: Other defaults of the base's arguments.

    Returns:
        The class. It raises a ``FileNotFoundError`` if the file is missing.
    """

    class OnLite0(OwnLength, NeedsFiles, base):
        without_files: ClassVar[dict[str, Any]] = {"weights": "random"}

        def __init__(
            self,
            weights: str,
            layers: tuple[str, ...] = layers,
            image_size: ImageSize = (256, 256),
            max_epochs: int | None = None,
            pre_processor: PreProcessor | bool = True,
            **options: Any,  # noqa: ANN401
        ) -> None:
            if min(image_size) < min_side:
                raise ValueError(
                    f"image_size must be more than {min_side - 1} pixels each way, got {tuple(image_size)}: the noise "
                    f"with which {base.__name__} forges needs maps of features of {NOISE_SIDE} and more."
                )
            options = defaults | {name: value for name, value in options.items() if name not in FIXED}
            pre_processor = _resized(self, pre_processor, image_size)
            with local_weights(LITE0, weights):
                super().__init__(backbone=LITE0, layers=list(layers), pre_processor=pre_processor, **options)
            self.max_epochs = max_epochs

    OnLite0.__name__ = OnLite0.__qualname__ = f"{base.__name__}Lite0"
    OnLite0.__doc__ = f"{base.__name__} on an EfficientNet-Lite0 with weights from a local file, see :func:`on_lite0`."
    return OnLite0


PadimLite0 = on_lite0(Padim, LITE0_LAYERS, n_features=100)
# Text: Python 3.11.2 pickles anomalib's default, an enumeration, as code, and a checkpoint may hold none.
PatchcoreLite0 = on_lite0(Patchcore, LITE0_LAYERS[1:], precision="float32")
SupersimplenetLite0 = on_lite0(Supersimplenet, LITE0_LAYERS[1:], min_side=2 * NOISE_SIDE + 1)


class LocalDraem(OwnLength, NeedsFiles, Draem):  # type: ignore[misc]
    """DRAEM with textures from a local folder, or with this package's anomalies in place of its own.

    Args:
        anomalies (Literal["textures", "draem_perlin", "hard_cut_paste"]): ``"textures"`` pastes noise-shaped pieces of
            foreign textures, as published, with anomalib's generator; ``"draem_perlin"`` does so with
            :class:`~anomalib_anoseg.transforms.DraemPerlin`, several times as fast; ``"hard_cut_paste"`` pastes patches
            of the image itself with :class:`~anomalib_anoseg.transforms.HardCutPaste`. Defaults to ``"textures"``.
        dtd_dir (str | None): Folder with pictures of textures; needed for ``"textures"``. Without it,
            ``"draem_perlin"`` shows its noise, as anomalib's generator does. Defaults to ``None``.
        image_size (tuple[int, int]): Height and width in pixels, multiples of 32. Defaults to ``(256, 256)``.
        max_epochs (int | None): Number of training epochs, which overrides the trainer's. Defaults to ``None``.
        pre_processor (PreProcessor | bool): Defaults to ``True``, a resize.
        **options: Other arguments of anomalib's DRAEM.

    Raises:
        ValueError: If ``anomalies`` is unknown.
        FileNotFoundError: If the folder does not exist, or ``"textures"`` lacks one.

    Example:
        >>> LocalDraem(anomalies="hard_cut_paste", image_size=(64, 64), max_epochs=3).trainer_arguments["max_epochs"]
        3
    """

    without_files: ClassVar[dict[str, Any]] = {"anomalies": "hard_cut_paste", "dtd_dir": None}

    def __init__(
        self,
        anomalies: Literal["textures", "draem_perlin", "hard_cut_paste"] = "textures",
        dtd_dir: str | None = None,
        image_size: ImageSize = (256, 256),
        max_epochs: int | None = None,
        pre_processor: PreProcessor | bool = True,
        **options: Any,  # noqa: ANN401
    ) -> None:
        if anomalies not in {"textures", "draem_perlin", "hard_cut_paste"}:
            raise ValueError(f"anomalies must be 'textures', 'draem_perlin' or 'hard_cut_paste', got {anomalies!r}.")
        if anomalies == "textures" and dtd_dir is None:
            raise FileNotFoundError(
                "dtd_dir: DRAEM needs a folder with pictures of textures; nothing is downloaded. "
                "Or set anomalies to draem_perlin or hard_cut_paste."
            )
        # anomalib downloads textures unless the folder exists
        textures = NO_PICTURES if dtd_dir is None else existing("dtd_dir", dtd_dir)
        super().__init__(dtd_dir=textures, pre_processor=_resized(self, pre_processor, image_size), **options)
        self.max_epochs = max_epochs
        if anomalies == "draem_perlin":
            self.augmenter = DraemPerlin(dtd_dir).with_masks()  # type: ignore[assignment]
        elif anomalies == "hard_cut_paste":
            self.augmenter = HardCutPaste(**FORGED_DEFECTS, p=0.5).with_masks()  # type: ignore[assignment]
