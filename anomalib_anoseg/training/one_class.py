"""What all models have in common that learn from normal images alone, those of boards included."""

from anomalib import LearningType
from anomalib.metrics import Evaluator
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Compose, Resize

from anomalib_anoseg.metrics import segmentation_evaluator


class OneClass:
    """Defaults of a model that learns from normal images in ``[0, 1]``.

    A mixin, listed before anomalib's base.
    """

    @property
    def learning_type(self) -> LearningType:
        """Normal images alone."""
        return LearningType.ONE_CLASS

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Configure a resize, without normalisation: images stay in ``[0, 1]``."""
        return PreProcessor(transform=Compose([Resize(image_size or (256, 256), antialias=True)]))

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Configure anomalib's default metrics and those of segmentation, see :func:`segmentation_evaluator`."""
        return segmentation_evaluator()
