"""anomalib's DRAEM and EfficientAD with what they need from local files.

Each class is anomalib's with other constructor arguments, known to anomalib by its path::

    class_path: anomalib_anoseg.board.baselines.LocalDraem
    init_args: {dtd_dir: textures, image_size: [128, 128]}
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from anomalib.metrics import Evaluator
from anomalib.models import Draem, EfficientAd
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer

from anomalib_anoseg.board.baselines.shared import ImageSize, OwnLength, resized
from anomalib_anoseg.board.run.offline import existing
from anomalib_anoseg.board.run.protocol import FORGED_DEFECTS
from anomalib_anoseg.transforms import DraemPerlin, HardCutPaste

__all__ = ["LocalDraem", "LocalEfficientAd"]

NO_PICTURES = Path(__file__).parent  # a folder that exists and holds no pictures


class LocalDraem(OwnLength, Draem):  # type: ignore[misc]
    """DRAEM with textures from a local folder, or with this package's forged defects in place of its own.

    Args:
        anomalies (Literal["textures", "draem_perlin", "hard_cut_paste"]): ``"textures"`` pastes noise-shaped pieces of
            foreign textures, as published, with anomalib's generator; ``"draem_perlin"`` does so with
            :class:`~anomalib_anoseg.transforms.DraemPerlin`, several times as fast; ``"hard_cut_paste"`` pastes patches
            of the image itself with :class:`~anomalib_anoseg.transforms.HardCutPaste`. Defaults to ``"textures"``.
        dtd_dir (str | None): Folder with pictures of textures; needed for ``"textures"``. Without, ``"draem_perlin"``
            shows its noise, as anomalib's generator does. Defaults to ``None``.
        image_size (tuple[int, int]): Height and width in pixels, multiples of 32. Defaults to ``(256, 256)``.
        max_epochs (int | None): Length of the training, if it shall override the trainer's. Defaults to ``None``.
        pre_processor (PreProcessor | bool): Defaults to ``True``, a resize.
        post_processor (PostProcessor | bool): Defaults to ``True``, anomalib's.
        evaluator (Evaluator | bool): Defaults to ``True``, anomalib's.
        visualizer (Visualizer | bool): Defaults to ``True``, anomalib's.

    Raises:
        ValueError: If ``anomalies`` is unknown, or textures are asked for without a folder.
        FileNotFoundError: If the folder does not exist.

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
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        if anomalies not in {"textures", "draem_perlin", "hard_cut_paste"}:
            raise ValueError(f"anomalies must be 'textures', 'draem_perlin' or 'hard_cut_paste', got {anomalies!r}.")
        if anomalies == "textures" and dtd_dir is None:
            raise FileNotFoundError(
                "dtd_dir: DRAEM needs a folder with pictures of textures; nothing is downloaded. "
                "Or set anomalies to draem_perlin or hard_cut_paste."
            )
        super().__init__(
            # anomalib downloads textures unless the folder exists
            dtd_dir=NO_PICTURES if dtd_dir is None else existing("dtd_dir", dtd_dir),
            pre_processor=resized(self, pre_processor, image_size),
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.max_epochs = max_epochs
        if anomalies == "draem_perlin":
            self.augmenter = DraemPerlin(dtd_dir).with_masks()  # type: ignore[assignment]
        elif anomalies == "hard_cut_paste":
            self.augmenter = HardCutPaste(**FORGED_DEFECTS, p=0.5).with_masks()  # type: ignore[assignment]


class LocalEfficientAd(OwnLength, EfficientAd):  # type: ignore[misc]
    """EfficientAD with the teacher's weights and the pictures it needs from local files.

    Args:
        teacher (str): File with the small teacher's weights, which anomalib would download; ``"random"`` for loading a
            checkpoint, which brings its own.
        imagenet_dir (str): Folder of folders with pictures of all kinds, which anomalib would download.
        image_size (tuple[int, int]): Height and width in pixels. Defaults to ``(256, 256)``.
        max_epochs (int | None): Length of the training, if it shall override the trainer's. Defaults to ``None``.
        pre_processor (PreProcessor | bool): Defaults to ``True``, a resize.
        post_processor (PostProcessor | bool): Defaults to ``True``, anomalib's.
        evaluator (Evaluator | bool): Defaults to ``True``, anomalib's.
        visualizer (Visualizer | bool): Defaults to ``True``, anomalib's.

    Raises:
        FileNotFoundError: If the file or the folder does not exist.

    Example:
        >>> LocalEfficientAd("nowhere.pth", "nowhere")
        Traceback (most recent call last):
            ...
        FileNotFoundError: teacher: 'nowhere.pth' does not exist. Give a local file or folder; nothing is downloaded.
    """

    without_files: ClassVar[dict[str, Any]] = {"teacher": "random", "imagenet_dir": str(NO_PICTURES)}

    def __init__(
        self,
        teacher: str,
        imagenet_dir: str,
        image_size: ImageSize = (256, 256),
        max_epochs: int | None = None,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        self._teacher = teacher if teacher == "random" else existing("teacher", teacher)
        super().__init__(
            imagenet_dir=existing("imagenet_dir", imagenet_dir),
            model_size="small",
            pre_processor=resized(self, pre_processor, image_size),
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.max_epochs = max_epochs

    def setup(self, stage: str) -> None:
        """Train on single images, as EfficientAD demands, whatever the other models on the board do."""
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit" and datamodule is not None:
            datamodule.train_batch_size = 1

    def prepare_pretrained_model(self) -> None:
        """Read the teacher's weights from the file."""
        self.model.teacher.load_state_dict(torch.load(self._teacher, map_location=self.device, weights_only=True))
