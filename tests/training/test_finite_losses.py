"""A training that diverges stops with the step, the losses and the last good checkpoint, and saves nothing after."""

import re

import pytest
import torch
from anomalib.engine import Engine
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from torch.utils.data import DataLoader

from anomalib_anoseg import SGSF, AnoSeg
from anomalib_anoseg.training import finite_losses
from anomalib_anoseg.training.finite_losses import FiniteLosses


class Diverging(LightningModule):
    """Learns from five batches an epoch; one of its two losses, or its weights, are spoiled after some steps."""

    def __init__(self, loss_at=10**9, weights_at=10**9):
        super().__init__()
        self.model, self.steps = torch.nn.Linear(1, 1), 0
        self.loss_at, self.weights_at = loss_at, weights_at

    def training_step(self, batch, *_):
        self.steps += 1
        term = self.model(batch).sum()
        total = term / (0.0 if self.steps >= self.loss_at else 1.0)
        return {"loss": total, "train_term_loss": term.detach(), "train_loss": total.detach()}

    def validation_step(self, *_):
        pass

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        if self.steps >= self.weights_at:
            self.model.weight.data.fill_(float("nan"))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(model, folder, *callbacks, **options):
    trainer = Trainer(
        **{"max_epochs": 3} | options,
        callbacks=[ModelCheckpoint(folder), FiniteLosses(), *callbacks],
        **dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False),
        accelerator="cpu",
    )
    trainer.fit(model, DataLoader(torch.ones(5, 1)), DataLoader(torch.ones(1, 1)))
    return trainer


def test_step_term_and_last_good_checkpoint_are_named(tmp_path):
    message = (
        r"^The training diverged: train_loss=-?inf at step 7 \(epoch 2\)\. The last good checkpoint is (\S+)\. "
        r"Train again with a lower learning rate \(--model\.optimizer\.lr\)\.$"
    )
    with pytest.raises(ValueError, match=message) as raised:
        fit(Diverging(loss_at=7), tmp_path)
    (kept,) = tmp_path.iterdir()
    assert re.match(message, str(raised.value))[1] == str(kept)
    assert all(weight.isfinite().all() for weight in torch.load(kept, weights_only=True)["state_dict"].values())


@pytest.mark.parametrize("options", [{}, {"limit_val_batches": 0}, {"max_epochs": 1, "limit_val_batches": 0}], ids=str)
def test_nothing_is_saved_of_a_training_that_diverges_at_once(options, tmp_path):
    with pytest.raises(ValueError, match=r"at step 3 \(epoch 1\)\. No checkpoint was written before\."):
        fit(Diverging(loss_at=3), tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_other_callbacks_that_write_checkpoints_do_not_hide_the_cause(tmp_path):
    with pytest.raises(ValueError, match=r"^The training diverged: .* The last good checkpoint is .*kept"):
        fit(Diverging(loss_at=7), tmp_path / "kept", OnExceptionCheckpoint(tmp_path / "other"))


def test_weights_that_the_last_step_spoiled_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match=r"diverged: the weights model\.weight at step 5 \(epoch 1\)\. No checkpoint"):
        fit(Diverging(weights_at=5), tmp_path)
    assert not list(tmp_path.iterdir())


def test_long_epochs_are_stopped_within_them(tmp_path, monkeypatch):
    monkeypatch.setattr(finite_losses, "INTERVAL", 4)
    model = Diverging(loss_at=2)
    with pytest.raises(ValueError, match="at step 2 "):
        fit(model, tmp_path)
    assert model.steps == 4


def test_steps_do_not_wait_for_the_device(tmp_path, count_operations, monkeypatch):
    counts, noted = [], FiniteLosses.on_train_batch_end

    def counted(*args):
        with count_operations() as counter:
            noted(*args)
        counts.append(counter.operations)

    monkeypatch.setattr(FiniteLosses, "on_train_batch_end", counted)
    fit(Diverging(), tmp_path)
    assert counts == [0] * 15


SMALL = {"image_size": (64, 64), "network": {"width": 0.125}, "visualizer": False, "evaluator": False}


@pytest.mark.parametrize("model", [AnoSeg, SGSF])
def test_spoiled_weights_are_not_loaded(model):
    made = model(**SMALL)
    checkpoint = {"hyper_parameters": dict(made.hparams), "state_dict": made.state_dict()}
    assert checkpoint["state_dict"]["post_processor.image_min"].isnan()
    model(**SMALL).on_load_checkpoint(checkpoint)  # thresholds are NaN before a calibration
    name, weight = next(made.model.named_parameters())
    weight.data.fill_(float("inf"))
    message = rf"^The checkpoint's weights {re.escape(name)} are NaN or infinite: .* Take an earlier checkpoint, or"
    with pytest.raises(ValueError, match=message):
        model(**SMALL).on_load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("model", "spoiled", "terms"),
    [
        (AnoSeg(**SMALL, detector={"enabled": True}), "discriminator", ("train_discriminator_loss", "train_loss")),
        (AnoSeg(**SMALL, detector={"enabled": True}), "detector", ("train_detector_discriminator_loss",)),
        (SGSF(**SMALL, guidance={"kind": "none"}), "", ("train_segmentation_loss=nan, train_loss=nan",)),
    ],
    ids=["AnoSeg", "detector", "SGSF"],
)
def test_models_name_their_losses(model, spoiled, terms, tiny_data, tmp_path):
    next(model.model.get_submodule(spoiled).parameters()).data.fill_(float("nan"))
    quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "logger"), False)
    with pytest.raises(ValueError, match=r"^The training diverged: .* No checkpoint was written before") as raised:
        Engine(accelerator="cpu", default_root_dir=tmp_path, max_epochs=1, **quiet).fit(model, datamodule=tiny_data)
    assert all(term in str(raised.value) for term in terms)
