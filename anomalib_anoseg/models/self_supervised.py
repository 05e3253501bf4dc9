"""How Lightning and anomalib meet a model that learns from anomalies which it forges on normal images."""

from collections.abc import Sequence
from typing import Any

import torch
from anomalib import LearningType
from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback
from torch import Tensor
from torchvision.transforms.v2 import Compose, Resize

from anomalib_anoseg.deploy.light_export import LightExport
from anomalib_anoseg.metrics import segmentation_evaluator
from anomalib_anoseg.training.checkpoints import ExplainedMisfit
from anomalib_anoseg.training.final_validation import FinalValidation
from anomalib_anoseg.training.input_checks import InputCheck
from anomalib_anoseg.training.post_processor import SelfCalibratingPostProcessor
from anomalib_anoseg.training.seeding import SeededFit, step_seed
from anomalib_anoseg.transforms import SyntheticAnomaly


class SelfSupervisedModel(LightExport, ExplainedMisfit):
    """The conventions of this package's models.

    A mixin, to stand before :class:`anomalib.models.components.AnomalibModule`, which anomalib wants to find among the
    bases of every model.

    Attributes:
        augmenter: Forges the anomalies.
        seed: Fixes initial weights, anomalies and the order of images; ``None`` for the global random stream.
        max_epochs: Length of the training, if it shall override the trainer's.
    """

    augmenter: SyntheticAnomaly
    seed: int | None
    max_epochs: int | None

    def configure_callbacks(self) -> Sequence[Callback]:
        """Add checks of the images, repeatable random streams and a last validation to anomalib's components."""
        components: Any = super().configure_callbacks()
        check = InputCheck(self.max_epochs, self.augmenter.check_paths)
        return [*components, check, SeededFit(self.seed), FinalValidation()]

    def step_generator(self) -> torch.Generator | None:
        """Make the random stream of this training step and rank; ``None`` without a seed."""
        if self.seed is None:
            return None
        generator = torch.Generator(self.augmenter.device)
        return generator.manual_seed(step_seed(self.seed, self.global_rank, self.trainer.fit_loop.total_batch_idx))

    def validation_step(self, batch: ImageBatch, *args: Any, **kwargs: Any) -> ImageBatch:  # noqa: ANN401
        """Predict anomaly maps and image scores."""
        del args, kwargs
        image: Any = batch.image
        network: Any = self.model
        # As a plain tensor: on older versions torch.compile never comes to an end of torchvision's subclass.
        return batch.update(**network(image.as_subclass(Tensor))._asdict())

    def test_step(self, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Predict as in validation."""
        return self.validation_step(batch, batch_idx, *args, **kwargs)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:  # noqa: ANN401
        """Predict as in validation."""
        return self.validation_step(batch, batch_idx, dataloader_idx)

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Trainer options that override the user's: the length, if the model was given one."""
        return {} if self.max_epochs is None else {"max_epochs": self.max_epochs}

    @property
    def learning_type(self) -> LearningType:
        """Models of this package learn from normal images alone."""
        return LearningType.ONE_CLASS

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Configure a resize, without normalisation: images stay in ``[0, 1]``."""
        return PreProcessor(transform=Compose([Resize(image_size or (256, 256), antialias=True)]))

    def configure_post_processor(self) -> PostProcessor:
        """Configure thresholds that need no anomalous images."""
        return SelfCalibratingPostProcessor()

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Configure anomalib's default metrics and those of segmentation, see :func:`segmentation_evaluator`."""
        return segmentation_evaluator()
