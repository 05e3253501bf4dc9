"""What Lightning and anomalib need of a model that learns from anomalies forged on normal images."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from anomalib.data import ImageBatch
from anomalib.post_processing import PostProcessor
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from anomalib_anoseg.common.callers import is_called_by
from anomalib_anoseg.deploy.export import export_onnx, export_openvino, export_torch
from anomalib_anoseg.deploy.resize import use_matrix_resize
from anomalib_anoseg.models.ignored_region import IgnoredRegion, add_name, check_region, read_region
from anomalib_anoseg.models.settings import complete
from anomalib_anoseg.training.calibrated import CalibratedPostProcessor
from anomalib_anoseg.training.calibration import Calibratable, CalibrationAnomalies
from anomalib_anoseg.training.checkpoints import add_digests, check_digests, check_trained, explain_misfit, fits
from anomalib_anoseg.training.final_validation import FinalValidation
from anomalib_anoseg.training.finite_losses import FiniteLosses
from anomalib_anoseg.training.input_checks import InputCheck, PrecisionCheck, as_images
from anomalib_anoseg.training.one_class import OneClass
from anomalib_anoseg.training.post_processor import SelfCalibratingPostProcessor
from anomalib_anoseg.training.reading_once import ReadingOnce
from anomalib_anoseg.training.result_pictures import ResultPictures
from anomalib_anoseg.training.reused_memory import ReusedMemory
from anomalib_anoseg.training.safe_checkpoints import SafeCheckpoints
from anomalib_anoseg.training.seeding import SeededFit, step_seed
from anomalib_anoseg.transforms import SyntheticAnomaly


class SelfSupervisedModel(OneClass, LightningModule, Calibratable):  # noqa: PLR0904 - as the host calls them
    """The conventions of this package's models.

    A mixin, listed before :class:`anomalib.models.components.AnomalibModule`, which must be a direct base of every
    model.

    Attributes:
        model: The networks, with methods ``prepare_for_evaluation`` and ``drop_training_parts``.
        augmenter: Forges the anomalies.
        ignore_mask: The file of a region that does not count; ``count_ignored`` lets ``test`` count its defects.
        seed: Fixes initial weights, anomalies and the order of images; ``None`` for the global random stream.
        max_epochs: Number of training epochs, which overrides the trainer's; ``None`` keeps the trainer's.
        min_side: Shortest side of an image in pixels that the networks can take.
        unexported: Names of attributes beside ``model`` that only training needs.
        find_place: Tells where a former argument stands now, see :func:`~anomalib_anoseg.models.settings.find_place`.
        shaping_arguments: Those that shape the networks, see
            :func:`~anomalib_anoseg.training.checkpoints.explain_misfit`.
        result_arguments: Likewise those that change predictions of equal weights, whose thresholds fit no other choice.
        chosen_arguments: Likewise those that change predictions and may be chosen after training.
        saved_arguments: Arguments in the last checkpoint that was loaded; ``None`` if there was none.
        has_learned: Whether the weights were trained or loaded.
    """

    model: Any
    augmenter: SyntheticAnomaly
    ignore_mask: str | Path | None
    count_ignored: bool
    seed: int | None
    max_epochs: int | None
    min_side: int
    unexported: tuple[str, ...] = ("augmenter",)
    find_place: Callable[[str], str | None]
    shaping_arguments: Mapping[str, Callable[[Any], object]]
    result_arguments: Mapping[str, Callable[[Any], object]] = {"image_size": tuple, "network.score_window": int}
    chosen_arguments: Mapping[str, Callable[[Any], object]] = {}
    saved_arguments: Mapping[str, Any] | None = None
    has_learned: bool = False

    def forward(self, batch: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Predict from images in memory as the trainer does from files: with the same resize.

        Args:
            batch: See :func:`~anomalib_anoseg.training.input_checks.as_images`.
            *args: Passed on to anomalib.
            **kwargs: Passed on to anomalib.

        Raises:
            RuntimeError: In training mode, in which the networks predict something else.
        """
        images = as_images(batch)
        if self.training:
            raise RuntimeError("Call eval() before predicting: in training mode the networks return what losses need.")
        use_matrix_resize(self.pre_processor)
        return super().forward(images, *args, **kwargs)

    def configure_callbacks(self) -> Sequence[Callback]:
        """Add to anomalib's callbacks: memory, reading once, checks, seeds, a final validation, safe checkpoints."""
        components: Any = super().configure_callbacks()
        check = InputCheck(self.max_epochs, self.augmenter.check_paths, lambda: read_region(self))
        before = PrecisionCheck(), ReusedMemory(), ReadingOnce(), check, SeededFit(self.seed)
        return [*components, *before, FinalValidation(), FiniteLosses(), SafeCheckpoints()]

    def step_generator(self) -> torch.Generator | None:
        """Create the random generator of this training step and rank; ``None`` without a seed."""
        if self.seed is None:
            return None
        generator = torch.Generator(self.augmenter.device)
        return generator.manual_seed(step_seed(self.seed, self.global_rank, self.trainer.fit_loop.total_batch_idx))

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Load weights, remember that there are some, and set their thresholds for the false alarm rate."""
        found = super().load_state_dict(*args, **kwargs)
        self.has_learned = True
        self.region.to(self.device)  # not that of the weights
        is_set_anew = self._running() in {TrainerFn.FITTING, TrainerFn.VALIDATING}
        if isinstance(self.post_processor, CalibratedPostProcessor) and not is_set_anew:
            self.post_processor.move_thresholds()
        return found

    def on_train_start(self) -> None:
        """Remember that the weights are trained."""
        self.has_learned = True

    def on_validation_start(self) -> None:
        """Refuse random weights, unless this is a part of a training."""
        if self._running() == TrainerFn.VALIDATING:
            self.check_weights()

    def on_test_start(self) -> None:
        """Refuse random weights, and say which are tested after a resumed training: anomalib reports the wrong ones."""
        self.check_weights()
        if self._is_tested_by_train() and self.trainer.ckpt_path:
            rank_zero_info(f"Testing the weights of this training, not those of {self.trainer.ckpt_path}.")

    def on_predict_start(self) -> None:
        """Refuse random weights."""
        self.check_weights()

    def check_weights(self) -> None:
        """Say so if the weights are random, and end the ``anomalib`` command with status 2.

        In Python this only warns: weights may have come in a way that is not known here.

        Raises:
            SystemExit: In the command.
        """
        if self.has_learned:
            return
        name = type(self).__name__
        message = f"{name} has random weights, because it was neither trained nor loaded."
        if is_called_by("anomalib.cli.cli"):
            path = f"results/{name}/DATA/CATEGORY/latest/weights/lightning/model.ckpt"
            sys.stderr.write(f"{message} Add --ckpt_path to the command, with the file of a training: {path}\n")
            raise SystemExit(2)
        rank_zero_warn(f"{message} Train it, or load a checkpoint: {name}.load_from_checkpoint(...), or ckpt_path=...")

    def on_validation_model_eval(self) -> None:
        """Prepare the networks for a validation."""
        super().on_validation_model_eval()
        self.model.prepare_for_evaluation()

    def on_test_model_eval(self) -> None:
        """Prepare the networks for a test."""
        super().on_test_model_eval()
        self.model.prepare_for_evaluation()

    def on_predict_model_eval(self) -> None:
        """Prepare the networks for predictions."""
        super().on_predict_model_eval()
        self.model.prepare_for_evaluation()

    def on_fit_end(self) -> None:
        """Prepare the networks for prediction without a trainer, even after a training without validation."""
        self.model.prepare_for_evaluation()
        self.model.train()

    def validation_step(self, batch: ImageBatch, *args: Any, **kwargs: Any) -> ImageBatch:  # noqa: ANN401
        """Predict anomaly maps and image scores; true defects in the ignored region do not count from here on."""
        del args, kwargs
        batch.gt_mask, batch.gt_label = self.region.mask_truth(batch.gt_mask, batch.gt_label)
        image: Any = batch.image
        # As a plain tensor: older versions of torch.compile never finish with torchvision's subclass.
        return batch.update(**self.model(image.as_subclass(Tensor))._asdict())

    def test_step(self, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Predict as in validation; with ``count_ignored`` all true defects count."""
        truth = {"gt_mask": batch.gt_mask, "gt_label": batch.gt_label} if self.count_ignored else {}
        return self.validation_step(batch, batch_idx, *args, **kwargs).update(**truth)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:  # noqa: ANN401
        """Predict as in validation."""
        return self.validation_step(batch, batch_idx, dataloader_idx)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add digests, by which a damaged file is found when it is loaded, and the name of ``ignore_mask``."""
        super().on_save_checkpoint(checkpoint)
        add_digests(checkpoint)
        add_name(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a damaged checkpoint, and one of a model with other settings, before torch lists the tensors.

        The test at the end of ``anomalib train`` keeps the trained weights, also where a checkpoint was to go on from.

        A training that goes on may change what its thresholds follow, but not the ``image_size``, because the saved
        resize would replace the model's. An argument that ``load_from_checkpoint`` overrides in Python looks like a
        saved one; if weights do not fit, then only torch's error appears.

        Raises:
            ValueError: If the file is damaged, weights are not finite, or settings differ: the message names all.
        """
        if self._is_tested_by_train():
            checkpoint["state_dict"] = self.state_dict()
            checkpoint.pop("callbacks", None)  # as the training left them, too
            return
        is_fitting = self._running() == TrainerFn.FITTING
        check_digests(checkpoint, ("state_dict", "optimizer_states") if is_fitting else ("state_dict",))
        super().on_load_checkpoint(checkpoint)
        self.saved_arguments = complete(type(self), checkpoint.get("hyper_parameters", {}))
        saved = checkpoint.get("state_dict", {}).items()
        weights = {name.removeprefix("model."): weight for name, weight in saved if name.startswith("model.")}
        check_trained(weights)
        check_region(self, checkpoint, weights)
        refused: Mapping[str, Callable[[Any], object]] = {"image_size": tuple} if is_fitting else self.result_arguments
        if not fits(self.model, weights):
            refused = {**self.shaping_arguments, **self.result_arguments}
        if misfit := self._compare(refused):
            raise ValueError(misfit)
        if differs := self._compare(self.chosen_arguments):
            rank_zero_warn(f"{differs.removesuffix('.')}, unless you chose this.")

    def _is_tested_by_train(self) -> bool:
        """Tell whether this is the test after a training, to which anomalib gives the checkpoint resumed from, too."""
        return self._running() == TrainerFn.TESTING and is_called_by("anomalib.engine.engine", "train")

    def _compare(self, names: Mapping[str, Callable[[Any], object]]) -> str | None:
        return explain_misfit(self.saved_arguments or {}, self.hparams, names)

    def _running(self) -> TrainerFn | None:
        """What the trainer does, if there is one."""
        with suppress(RuntimeError):
            return self.trainer.state.fn
        return None

    @property
    def only_size(self) -> Any:  # noqa: ANN401
        """Height and width of the only image size that the networks accept; ``None`` if they accept any."""
        return self.region.size

    @property
    def published_weights(self) -> str | None:
        """Name of timm's network whose weights timm downloaded for this model, if it did."""
        return None

    def before_export(self) -> None:
        """Warn about properties of the exported files; does nothing here."""

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Export as anomalib does, see :func:`~anomalib_anoseg.deploy.export.export_torch`."""
        self.check_weights()
        return export_torch(self, export_root, model_file_name)

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Path:
        """Export as anomalib does, see :func:`~anomalib_anoseg.deploy.export.export_onnx`."""
        self.check_weights()
        return export_onnx(self, export_root, model_file_name, input_size, **kwargs)

    def to_openvino(self, export_root: Path | str, model_file_name: str = "model", *args: Any, **kwargs: Any) -> Path:  # noqa: ANN401
        """Export as anomalib does, see :func:`~anomalib_anoseg.deploy.export.export_openvino`."""
        return export_openvino(self, export_root, model_file_name, *args, **kwargs)

    def _post_training_quantization_ov(self, model: Any, datamodule: Any = None) -> Any:  # noqa: ANN401
        """Quantize only the networks for ``INT8_PTQ``; anomalib's own version quantizes scores and maps, too."""
        from anomalib_anoseg.deploy.quantization import quantize  # noqa: PLC0415 - nncf is installed with an extra

        return quantize(model, datamodule)

    @property
    def region(self) -> IgnoredRegion:
        """The region that ``ignore_mask`` marks, in which nothing counts."""
        return self.model.region

    @property
    def calibration_anomalies(self) -> CalibrationAnomalies:
        """Anomalies for calibration without real ones: those of training."""
        return CalibrationAnomalies(self.augmenter)

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Trainer options that override the user's: ``max_epochs``, if the model sets it."""
        return {} if self.max_epochs is None else {"max_epochs": self.max_epochs}

    def configure_post_processor(self) -> PostProcessor:
        """Configure thresholds that need no anomalous images."""
        return SelfCalibratingPostProcessor()

    @classmethod
    def configure_visualizer(cls) -> ImageVisualizer:
        """Configure anomalib's pictures of results, of which none replaces another."""
        return ResultPictures()
