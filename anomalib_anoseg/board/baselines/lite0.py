"""anomalib's models of features, on an EfficientNet-Lite0 whose weights come from a local file.

Each class is anomalib's with other constructor arguments, known to anomalib by its path::

    class_path: anomalib_anoseg.board.baselines.PadimLite0
    init_args: {weights: tf_efficientnet_lite0.pth, image_size: [128, 128]}

PaDiM on an EfficientNet-Lite0 is no published PaDiM: say so in the label of its row.
"""

from typing import Any, ClassVar

from anomalib.metrics import Evaluator
from anomalib.models import Padim, Patchcore, Supersimplenet
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer

from anomalib_anoseg.board.baselines.shared import ImageSize, OwnLength, resized
from anomalib_anoseg.board.run.offline import local_weights

__all__ = ["PadimLite0", "PatchcoreLite0", "SupersimplenetLite0"]

LITE0 = "tf_efficientnet_lite0"
LITE0_LAYERS = ("blocks.1", "blocks.2", "blocks.4")  # strides 4, 8 and 16; 24, 40 and 112 channels
NOISE_SIDE = 32  # anomalib's Perlin noise has up to so many cells a side; features have a quarter of the image's


class PadimLite0(Padim):
    """PaDiM on features of an EfficientNet-Lite0 with weights from a local file.

    Args:
        weights (str): File with timm's ImageNet weights of ``tf_efficientnet_lite0``; ``"random"`` leaves the features
            untrained, for loading a checkpoint, which brings its own.
        layers (tuple[str, ...]): Blocks whose features are taken. Defaults to those at strides 4, 8 and 16.
        n_features (int): Number of channels kept of the 176 of those blocks. Defaults to ``100``.
        image_size (tuple[int, int]): Height and width in pixels. Defaults to ``(256, 256)``.
        pre_processor (PreProcessor | bool): Defaults to ``True``, resize and normalisation.
        post_processor (PostProcessor | bool): Defaults to ``True``, anomalib's.
        evaluator (Evaluator | bool): Defaults to ``True``, anomalib's.
        visualizer (Visualizer | bool): Defaults to ``True``, anomalib's.

    Raises:
        FileNotFoundError: If there is no such file.

    Example:
        >>> PadimLite0("random", n_features=20).model.n_features
        20
    """

    without_files: ClassVar[dict[str, Any]] = {"weights": "random"}

    def __init__(
        self,
        weights: str,
        layers: tuple[str, ...] = LITE0_LAYERS,
        n_features: int = 100,
        image_size: ImageSize = (256, 256),
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        with local_weights(LITE0, weights):
            super().__init__(
                backbone=LITE0,
                layers=list(layers),
                n_features=n_features,
                pre_processor=resized(self, pre_processor, image_size),
                post_processor=post_processor,
                evaluator=evaluator,
                visualizer=visualizer,
            )


class PatchcoreLite0(Patchcore):
    """PatchCore on features of an EfficientNet-Lite0 with weights from a local file.

    Args:
        weights (str): File with timm's ImageNet weights of ``tf_efficientnet_lite0``; ``"random"`` leaves the features
            untrained, for loading a checkpoint, which brings its own.
        layers (tuple[str, ...]): Blocks whose features are taken. Defaults to those at strides 8 and 16.
        coreset_sampling_ratio (float): Fraction of the patches that are kept. Defaults to ``0.1``.
        num_neighbors (int): Number of neighbours an image's score rests on. Defaults to ``9``.
        image_size (tuple[int, int]): Height and width in pixels. Defaults to ``(256, 256)``.
        pre_processor (PreProcessor | bool): Defaults to ``True``, resize and normalisation.
        post_processor (PostProcessor | bool): Defaults to ``True``, anomalib's.
        evaluator (Evaluator | bool): Defaults to ``True``, anomalib's.
        visualizer (Visualizer | bool): Defaults to ``True``, anomalib's.

    Raises:
        FileNotFoundError: If there is no such file.

    Example:
        >>> PatchcoreLite0("random", coreset_sampling_ratio=0.01).coreset_sampling_ratio
        0.01
    """

    without_files: ClassVar[dict[str, Any]] = {"weights": "random"}

    def __init__(
        self,
        weights: str,
        layers: tuple[str, ...] = LITE0_LAYERS[1:],
        coreset_sampling_ratio: float = 0.1,
        num_neighbors: int = 9,
        image_size: ImageSize = (256, 256),
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        with local_weights(LITE0, weights):
            super().__init__(
                backbone=LITE0,
                layers=list(layers),
                coreset_sampling_ratio=coreset_sampling_ratio,
                num_neighbors=num_neighbors,
                pre_processor=resized(self, pre_processor, image_size),
                post_processor=post_processor,
                evaluator=evaluator,
                visualizer=visualizer,
            )


class SupersimplenetLite0(OwnLength, Supersimplenet):  # type: ignore[misc]
    """SuperSimpleNet on features of an EfficientNet-Lite0 with weights from a local file.

    Args:
        weights (str): File with timm's ImageNet weights of ``tf_efficientnet_lite0``; ``"random"`` leaves the features
            untrained, for loading a checkpoint, which brings its own.
        layers (tuple[str, ...]): Blocks whose features are taken. Defaults to those at strides 8 and 16.
        perlin_threshold (float): Threshold of the noise that shapes forged anomalies. Defaults to ``0.2``.
        image_size (tuple[int, int]): Height and width in pixels, more than 64 each. Defaults to ``(256, 256)``.
        max_epochs (int | None): Length of the training, if it shall override the trainer's. Defaults to ``None``.
        pre_processor (PreProcessor | bool): Defaults to ``True``, resize and normalisation.
        post_processor (PostProcessor | bool): Defaults to ``True``, anomalib's.
        evaluator (Evaluator | bool): Defaults to ``True``, anomalib's.
        visualizer (Visualizer | bool): Defaults to ``True``, anomalib's.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If images are too small.

    Example:
        >>> SupersimplenetLite0("random", max_epochs=3).trainer_arguments["max_epochs"]
        3
    """

    without_files: ClassVar[dict[str, Any]] = {"weights": "random"}

    def __init__(
        self,
        weights: str,
        layers: tuple[str, ...] = LITE0_LAYERS[1:],
        perlin_threshold: float = 0.2,
        image_size: ImageSize = (256, 256),
        max_epochs: int | None = None,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        if min(image_size) <= NOISE_SIDE * 2:
            raise ValueError(
                f"image_size must be more than {NOISE_SIDE * 2} pixels each way, got {tuple(image_size)}: the noise "
                f"with which SuperSimpleNet forges needs maps of features of {NOISE_SIDE} and more."
            )
        with local_weights(LITE0, weights):
            super().__init__(
                backbone=LITE0,
                layers=list(layers),
                perlin_threshold=perlin_threshold,
                pre_processor=resized(self, pre_processor, image_size),
                post_processor=post_processor,
                evaluator=evaluator,
                visualizer=visualizer,
            )
        self.max_epochs = max_epochs
