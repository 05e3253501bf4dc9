"""What a model prints when it is tested and validated, and on which data."""

import copy
import warnings

import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.common.presets import merge
from anomalib_anoseg.metrics import LabelAwareEvaluator, segmentation_evaluator

TEST_METRICS = [
    "image_AUROC",
    "image_F1Score",
    "pixel_AUROC",
    "pixel_AUPR",
    "pixel_AUPRO",
    "pixel_F1Score",
    "pixel_IoU",
    "pixel_BestIoU",
    "pixel_IoUCurveArea",
]
VAL_METRICS = ["image_AUROC", "pixel_AUROC", "pixel_AUPR"]


def tiny(**arguments):
    return AnoSeg(**merge({"image_size": (64, 64), "network": {"width": 0.125}, "visualizer": False}, arguments))


def make_engine(path, **arguments):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return Engine(accelerator="cpu", default_root_dir=path, **({"max_epochs": 1} | quiet | arguments))


@pytest.fixture
def labelled_data(tiny_root):
    """Test images, good and bad ones, for validation: anomalib's own default."""
    return MVTecAD(tiny_root, "stripes", train_batch_size=3, eval_batch_size=3, num_workers=0)


@pytest.fixture(scope="module")
def trained(tiny_root, tmp_path_factory, training_seed):
    data = MVTecAD(tiny_root, "stripes", train_batch_size=3, eval_batch_size=3, num_workers=0)
    model = tiny(seed=training_seed)
    engine = make_engine(tmp_path_factory.mktemp("trained"), num_sanity_val_steps=2)
    engine.fit(model, datamodule=data)
    return model, dict(engine.trainer.callback_metrics), engine.trainer.checkpoint_callback.best_model_path


def test_names_and_fresh_instances():
    evaluator = segmentation_evaluator()
    assert [metric.name for metric in evaluator.test_metrics] == TEST_METRICS
    assert [metric.name for metric in evaluator.val_metrics] == VAL_METRICS
    metrics = [*evaluator.test_metrics, *evaluator.val_metrics]
    assert len({id(metric) for metric in metrics}) == len(metrics)
    assert isinstance(tiny().evaluator, LabelAwareEvaluator)


def test_test_prints_all_and_the_curve_agrees_with_the_mask(trained, labelled_data, tmp_path):
    model, _, _ = trained
    (values,) = make_engine(tmp_path).test(model, datamodule=labelled_data, verbose=False)
    assert set(values) == set(TEST_METRICS)
    assert all(0 <= value <= 1 for value in values.values())
    assert values["pixel_BestIoU"] >= values["pixel_IoU"]
    assert values["pixel_BestIoU"] > values["pixel_IoUCurveArea"] > 0


def test_validation_with_both_labels_prints_rankings(trained, labelled_data, tmp_path):
    model, _, _ = trained
    (values,) = make_engine(tmp_path).validate(model, datamodule=labelled_data, verbose=False)
    assert set(values) == set(VAL_METRICS)
    assert values["pixel_AUROC"] > 0
    (again,) = make_engine(tmp_path).validate(model, datamodule=labelled_data, verbose=False)
    assert again == values  # nothing is left over from the first time


def test_training_computes_what_it_can_afford(trained):
    _, values, _ = trained
    assert "image_AUROC" in values
    assert not {"pixel_AUROC", "pixel_AUPR"} & set(values)


def test_normal_validation_images_alone_print_nothing(tiny_data, tmp_path):
    model, engine = tiny(), make_engine(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="No positive samples")
        warnings.filterwarnings("error", message="The ``compute`` method of metric AU")
        engine.fit(model, datamodule=copy.deepcopy(tiny_data))
        assert not set(VAL_METRICS) & set(engine.trainer.callback_metrics)
        assert engine.validate(model, datamodule=copy.deepcopy(tiny_data), verbose=False) == [{}]


def test_early_stopping_can_watch_the_image_auroc(labelled_data, tmp_path):
    from lightning.pytorch.callbacks import EarlyStopping

    watch = EarlyStopping("image_AUROC", mode="max")
    make_engine(tmp_path, callbacks=[watch]).fit(tiny(), datamodule=labelled_data)
    assert 0 <= watch.best_score <= 1


def test_metrics_leave_checkpoints_alone(trained):
    _, _, checkpoint = trained
    assert not [key for key in torch.load(checkpoint, weights_only=True)["state_dict"] if key.startswith("evaluator")]
    for evaluator in (True, False):
        AnoSeg.load_from_checkpoint(checkpoint, weights_only=True, evaluator=evaluator)


def test_used_metrics_can_be_copied_for_export(trained, labelled_data, tmp_path):
    model, _, _ = trained
    make_engine(tmp_path).test(model, datamodule=labelled_data, verbose=False)
    assert [metric.name for metric in copy.deepcopy(model).evaluator.test_metrics] == TEST_METRICS
    assert model.to_torch(tmp_path).exists()
