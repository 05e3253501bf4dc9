"""SGSF as anomalib and Lightning see it: arguments, references, optimisation, reproducibility, resuming."""

import copy
import re
import shutil

import pytest
import torch
from anomalib.callbacks import TilerConfigurationCallback
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from lightning.pytorch import Callback, Trainer
from torch.optim import SGD
from torchvision.transforms.v2 import RandomHorizontalFlip, Resize

from anomalib_anoseg import SGSF
from anomalib_anoseg.common.presets import merge
from anomalib_anoseg.models.sgsf import lightning_model
from anomalib_anoseg.models.sgsf.torch_model import SGSFModel


def tiny(**arguments):
    small = {"image_size": (32, 32), "network": {"width": 0.125}, "extractor": {"name": "test_resnet"}}
    return SGSF(**merge({**small, "visualizer": False, "evaluator": False}, arguments))


def fit(model, data, path, ckpt_path=None, **trainer):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    engine = Engine(accelerator="cpu", default_root_dir=path, **({"max_epochs": 1} | quiet | trainer))
    engine.fit(model, datamodule=copy.deepcopy(data), ckpt_path=ckpt_path)
    return engine


def equal_weights(first, second):
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    # Thresholds are NaN before the first calibration.
    return all(
        name == other and a.shape == b.shape and torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))
        for (name, a), (other, b) in pairs
    )


def test_defaults_are_the_published_settings():
    defaults = SGSF().hparams
    published = {
        "image_size": (256, 256),
        "network": {"width": 1.0, "score_window": 21},
        "guidance": {"kind": "nearest", "contrast_size": 5},
        "anomalies": {"threshold": (0.4, 0.2), "opacity": (0.1, 1.0), "rotation_p": 0.3, "p": 0.75},
        "losses": {"reconstruction_weight": 1.0, "focal_gamma": 2.0},
        "optimizer": {"lr": 1e-4, "milestones": (0.5, 0.7, 0.9), "factor": 0.1, "averaging": 0.0},
    }
    assert merge(defaults, published) == defaults


def test_arguments_reach_what_they_are_for():
    model = tiny(
        anomalies={"rotation_p": 0.0, "p": 0.5, "threshold": (0.3, 0.0), "opacity": (0.5, 1.0)},
        bank={"precision": "float32"},
    )
    assert model.augmenter.p == pytest.approx(0.5)
    assert not model.augmenter.flags["rotation_p"]
    assert model.augmenter.flags["threshold"] == (0.3, 0.0)
    assert model.augmenter.flags["opacity"] == (0.5, 1.0)
    assert model.model.bank.dtype == torch.float32
    assert tiny(max_epochs=7).trainer_arguments == {"max_epochs": 7}


def test_two_fits_give_equal_weights(tiny_data, tmp_path):
    first, second, other = tiny(seed=3), tiny(seed=3), tiny(seed=4)
    fit(first, tiny_data, tmp_path / "first")
    torch.manual_seed(99)
    fit(second, tiny_data, tmp_path / "second")
    fit(other, tiny_data, tmp_path / "other")
    assert equal_weights(first, second)
    assert not equal_weights(first, other)


class Kill(Callback):
    """Ends the process in the midst of an epoch, as far as the trainer can tell."""

    def on_train_batch_start(self, trainer, *args):
        del args
        if trainer.current_epoch == 1:
            raise RuntimeError("killed")


def test_resumed_run_ends_where_an_uninterrupted_one_does(tiny_data, tmp_path):
    whole, resumed = tiny(optimizer={"averaging": 0.9}), tiny(optimizer={"averaging": 0.9})
    fit(whole, tiny_data, tmp_path / "whole", max_epochs=2)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tiny(optimizer={"averaging": 0.9}), tiny_data, tmp_path / "killed", max_epochs=2, callbacks=[Kill()])
    (checkpoint,) = (tmp_path / "killed").rglob("*.ckpt")
    fit(resumed, tiny_data, tmp_path / "resumed", max_epochs=2, ckpt_path=checkpoint)
    assert equal_weights(whole, resumed)


def test_checkpoint_predicts_where_there_are_no_training_images(tiny_root, tmp_path):
    shutil.copytree(tiny_root, tmp_path / "data")
    split = {"val_split_mode": "from_train", "val_split_ratio": 0.25, "seed": 0}
    model = tiny(anomalies={"threshold": (0.3, 0.0)})
    fit(model, MVTecAD(tmp_path / "data", "stripes", train_batch_size=3, num_workers=0, **split), tmp_path)
    shutil.rmtree(tmp_path / "data")
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    restored = SGSF.load_from_checkpoint(checkpoint, weights_only=True)
    assert len(restored.model.bank) == 6
    assert restored.augmenter.flags["threshold"] == (0.3, 0.0)
    image = torch.rand(2, 3, 64, 64)
    for one, other in zip(model.eval()(image), restored.eval()(image), strict=True):
        assert torch.equal(one, other)
    assert model.references is None, "training images are not kept"


def test_training_shows_each_image_other_ones_as_they_are_judged(tiny_data, tmp_path, monkeypatch):
    seen = []

    def record(references, paths, generator=None):
        place = choose(references, paths, generator)
        seen.append((references, [references.rows[path] for path in paths], place))
        return place

    choose = lightning_model.ReferenceSet.choose
    monkeypatch.setattr(lightning_model.ReferenceSet, "choose", record)
    tiny_data.train_augmentations = RandomHorizontalFlip(1.0)
    tiny_data.test_augmentations = Resize((16, 16))
    model = tiny()
    fit(model, tiny_data, tmp_path, max_epochs=3)
    assert all((references.own[row] != place).all() for references, row, place in seen)
    assert len({tuple(place.tolist()) for _, _, place in seen}) > 1
    coarse = seen[0][0].images.float()
    assert (coarse[..., 1::2] - coarse[..., ::2]).abs().mean() < 8, "went through what test images go through"


@pytest.mark.parametrize(
    ("switches", "banked"),
    [
        ({"guidance": {"kind": "none"}}, 0),
        ({"guidance": {"kind": "single"}, "bank": {"features": "computed"}}, 1),
        ({"guidance": {"denoise": True}}, 0),
        (
            {"guidance": {"use_contrast_set": False, "include_itself": True}, "bank": {"size": 2, "method": "k_means"}},
            2,
        ),
        ({"network": {"passes": "concatenated"}, "guidance": {"detach": True}, "anomalies": {"saliency": "none"}}, 6),
        ({"seed": None, "network": {"channels_last": False}}, 6),
    ],
    ids=str,
)
def test_every_switch_trains(switches, banked, tiny_data, tmp_path):
    model = tiny(**switches)
    before = copy.deepcopy(model.model.network.state_dict())
    fit(model, tiny_data, tmp_path, limit_train_batches=1, limit_val_batches=1)
    after = model.model.network.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in after if name.endswith("weight"))
    assert all(values.isfinite().all() for values in after.values())
    assert len(model.model.bank or ()) == banked


def test_compiles_if_asked_to(tiny_data, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(SGSFModel, "compile", lambda model: compiled.append(model))  # noqa: PLW0108 - a method
    model = tiny(network={"compile": True})
    fit(model, tiny_data, tmp_path, limit_train_batches=1, limit_val_batches=0)
    assert compiled == [model.model]


def test_trainer_accumulates_clips_and_trains_in_mixed_precision(tiny_data, tmp_path):
    class Recorder(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            del trainer, optimizer
            self.extractor = [p.grad for p in pl_module.model.extractor.parameters()]

        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            del trainer, optimizer
            norms = [p.grad.norm() for p in pl_module.model.parameters() if p.grad is not None]
            self.norm = torch.stack(norms).norm() if norms else 0.0

    recorder, model = Recorder(), tiny(optimizer={"averaging": 0.9})
    engine = fit(
        model,
        tiny_data,
        tmp_path,
        callbacks=[recorder],
        accumulate_grad_batches=2,
        gradient_clip_val=0.5,
        precision="bf16-mixed",
    )
    assert engine.trainer.global_step == 1
    assert recorder.extractor == [None] * len(recorder.extractor)
    assert recorder.norm <= 0.5 + 1e-3
    assert {values.dtype for values in model.model.network.state_dict().values()} == {torch.float32, torch.int64}


def test_training_step_makes_no_host_synchronisation(tiny_data, tmp_path, count_operations, monkeypatch):
    # Adam counts its steps in tensors on the host, wherever the weights are: reading those waits for no device.
    monkeypatch.setattr(lightning_model, "Adam", SGD)
    model, counts = tiny(), []
    step = model.training_step

    def counted(*args):
        with count_operations() as counter:
            loss = step(*args)
        counts.append((counter.operations > 100, counter.synchronisations))
        return loss

    monkeypatch.setattr(model, "training_step", counted)
    engine = fit(model, tiny_data, tmp_path)
    assert counts == [(True, 0), (True, 0)]
    names = {"train_loss", "train_segmentation_loss", "train_reconstruction_loss"}
    assert names <= set(engine.trainer.callback_metrics)


def test_learning_rate_falls_at_fractions_of_the_training(tiny_data, tmp_path):
    class Stop(Callback):
        def on_train_start(self, trainer, pl_module):
            del pl_module
            (self.config,) = trainer.lr_scheduler_configs
            trainer.should_stop = True

    stop = Stop()
    fit(tiny(), tiny_data, tmp_path, callbacks=[stop], max_epochs=6, accumulate_grad_batches=2)
    assert stop.config.interval == "step"
    decay = stop.config.scheduler.lr_lambdas[0]
    assert [decay(step) for step in range(7)] == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.001])


def test_calibrates_on_training_images_if_there_are_no_others(tiny_data, tmp_path):
    model = tiny(anomalies={"rotation_p": 1.0})
    with pytest.warns(UserWarning, match="There were no validation images"):
        fit(model, tiny_data, tmp_path, limit_val_batches=0)
    assert model.post_processor.calibrated_on == "forged on training images"
    assert model.post_processor.image_threshold.isfinite()
    image = torch.rand(2, 3, 32, 32)
    forged, mask = model.calibration_anomalies.image.forge(image)
    assert torch.equal(forged.where(mask == 0, image), image), "not turned"
    assert model.augmenter.flags["rotation_p"] == pytest.approx(1)


def test_faint_noise_sets_the_pixel_threshold_and_counts_for_no_image_score():
    model = tiny(anomalies={"rotation_p": 1.0}, calibration={"opacity": (0.1, 0.2)})
    faint, image = model.calibration_anomalies.map, model.calibration_anomalies.image
    assert (faint.flags["opacity"], image.flags["opacity"]) == ((0.1, 0.2), (0.1, 1.0))
    assert faint.flags["rotation_p"] == image.flags["rotation_p"] == 0
    assert not model.calibration_anomalies.scores_count
    assert tiny().calibration_anomalies.map is None


def test_tiles_are_refused(tiny_data, tmp_path):
    with pytest.raises(ValueError, match="SGSF compares whole images"):
        fit(tiny(), tiny_data, tmp_path, callbacks=[TilerConfigurationCallback(enable=True, tile_size=32, stride=32)])


def test_sizes_that_differ_from_the_references_are_refused(tiny_data, tmp_path):
    tiny_data.train_augmentations = Resize((48, 48))
    with pytest.raises(ValueError, match=r"\(48, 48\) pixels, but references, .* \(64, 64\)"):
        fit(tiny(pre_processor=False), tiny_data, tmp_path)


def test_checkpoint_of_another_shape_names_the_option(tmp_path):
    path = tmp_path / "model.ckpt"
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.strategy.connect(tiny(guidance={"kind": "none"}))
    trainer.save_checkpoint(path, weights_only=True)
    checkpoint = torch.load(path, weights_only=True)
    with pytest.raises(ValueError, match=r"Add --model\.network\.passes fused --model\.guidance\.kind none to"):
        tiny(network={"passes": "concatenated"}).on_load_checkpoint(checkpoint)


def test_weights_of_the_extractor_are_loaded_once(tiny_data, tmp_path, monkeypatch):
    loaded = []
    extractor = type(tiny().model.extractor)
    monkeypatch.setattr(extractor, "load_pretrained", lambda self: loaded.append(self.weights))
    model = tiny(extractor={"weights": "weights.pth"})
    fit(model, tiny_data, tmp_path, limit_train_batches=1)
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    fit(model, tiny_data, tmp_path, limit_train_batches=1)
    fit(
        tiny(extractor={"weights": "weights.pth"}), tiny_data, tmp_path, checkpoint, max_epochs=2, limit_train_batches=1
    )
    assert loaded == ["weights.pth"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": (16, 64)}, "image_size must be (height, width) of 32 pixels or more each, got (16, 64)"),
        ({"network": {"width": 0.0}}, "network.width must lie within [0.05, 4.0], got 0.0"),
        ({"optimizer": {"lr": 0.0}}, "optimizer.lr must lie within"),
        ({"optimizer": {"milestones": (0.5, 1.5)}}, "optimizer.milestones must lie within [0.0, 1.0], got 1.5"),
        ({"optimizer": {"factor": 2.0}}, "optimizer.factor must lie within"),
        ({"guidance": {"kind": "some"}}, "guidance.kind must be one of"),
        ({"guidance": {"denoise": True, "kind": "none"}}, "guidance.denoise=True guides by the denoised image"),
        ({"network": {"passes": "all"}}, "network.passes must be"),
        ({"guidance": {"contrast_size": 0}}, "guidance.contrast_size must lie within [1, 1000000], got 0"),
        ({"bank": {"size": 0}}, "bank.size must lie within [1, 1000000], got 0"),
        ({"bank": {"method": "random"}}, "bank.method must be one of"),
        ({"bank": {"features": "some"}}, "bank.features must be one of"),
        ({"bank": {"precision": "int8"}}, "bank.precision must be one of"),
        ({"guidance": {"memory": 0.0}}, "guidance.memory must lie within"),
        (
            {"extractor": {"name": "no_such_network"}},
            "extractor.name must be the name of a timm model, got 'no_such_network'",
        ),
        ({"extractor": {"size": 0}}, "extractor.size must be 1 pixel or more"),
        ({"anomalies": {"p": 1.5}}, "anomalies.p must lie within [0.0, 1.0], got 1.5"),
        ({"anomalies": {"rotation_p": -0.5}}, "anomalies.rotation_p must lie within"),
        ({"anomalies": {"threshold": (2.0, 0.0)}}, "anomalies.threshold"),
        ({"anomalies": {"opacity": (0.0, 1.0)}}, "anomalies.opacity must lie within"),
        ({"losses": {"reconstruction_weight": -1.0}}, "losses.reconstruction_weight must lie within"),
        ({"losses": {"focal_gamma": -1.0}}, "losses.focal_gamma must lie within"),
        ({"optimizer": {"averaging": 1.0}}, "optimizer.averaging must lie within"),
        ({"network": {"score_window": 4}}, "network.score_window must be an odd number"),
        ({"seed": -1}, "seed must be a whole number >= 0"),
    ],
    ids=str,
)
def test_refuses_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        tiny(**arguments)
