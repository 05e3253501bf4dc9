import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from anomalib_anoseg.training.final_validation import NEVER, FinalValidation


class Recorder(LightningModule):
    """Learns from five batches an epoch, and notes after which steps it was validated."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.validated = []

    def training_step(self, batch, *_):
        return self.layer(batch).sum()

    def validation_step(self, *_):
        self.validated.append(self.global_step)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters())


class StopAt(Callback):
    """Ends a training as a timer does."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= self.step


def fit(folder, callbacks=(), **options):
    model, checkpoint = Recorder(), ModelCheckpoint(folder)
    trainer = Trainer(
        callbacks=[*callbacks, checkpoint, FinalValidation()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        accelerator="cpu",
        **options,
    )
    trainer.fit(model, DataLoader(torch.ones(5, 1)), DataLoader(torch.ones(1, 1)))
    saved = torch.load(checkpoint.best_model_path, weights_only=True)["global_step"] if model.validated else None
    return trainer, model.validated, saved


@pytest.mark.parametrize(
    ("options", "validated"),
    [
        ({"max_steps": 3}, [3]),
        ({"max_steps": 8}, [5, 8]),
        ({"max_steps": 10}, [5, 10]),
        ({"max_epochs": 3}, [5, 10, 15]),
        ({"max_epochs": 3, "check_val_every_n_epoch": 2}, [10, 15]),
        ({"max_epochs": 4, "check_val_every_n_epoch": 2}, [10, 20]),
        ({"max_steps": 13, "check_val_every_n_epoch": None, "val_check_interval": 6}, [6, 12, 13]),
        ({"max_epochs": 2, "max_steps": 100}, [5, 10]),
    ],
)
def test_training_ends_with_a_validation_and_a_checkpoint(tmp_path, options, validated):
    trainer, steps, saved = fit(tmp_path, **options)
    assert steps == validated
    assert saved == trainer.global_step == validated[-1]


def test_a_training_that_runs_out_of_time_does_too(tmp_path):
    _, steps, saved = fit(tmp_path, [StopAt(7)], max_epochs=9, check_val_every_n_epoch=3)
    assert steps == [7]
    assert saved == 7


class Failure(Callback):
    """Ends a training during its last validation."""

    def on_validation_start(self, *_):
        raise RuntimeError("failed")


class NothingHeldOut(LightningDataModule):
    """Asked for validation images all the same."""

    val_split_mode = "none"

    def train_dataloader(self):
        return DataLoader(torch.ones(5, 1))

    def val_dataloader(self):
        raise AttributeError("val_data")


def test_leaves_the_trainer_as_it_was(tmp_path):
    trainer, *_ = fit(tmp_path, max_epochs=3, check_val_every_n_epoch=2)
    assert trainer.check_val_every_n_epoch == 2
    trainer.fit_loop.max_epochs = 4
    trainer.callbacks.append(Failure())
    with pytest.raises(RuntimeError, match="failed"):
        trainer.fit(Recorder(), DataLoader(torch.ones(5, 1)), DataLoader(torch.ones(1, 1)))
    assert trainer.check_val_every_n_epoch == 2


def test_without_validation_images_none_are_read_now_but_later(tmp_path):
    trainer, *_ = fit(tmp_path, max_epochs=1)
    trainer.fit_loop.max_epochs, model = 2, Recorder()
    trainer.fit(model, datamodule=NothingHeldOut())
    assert (trainer.current_epoch, model.validated) == (2, [])
    trainer.validate(model, DataLoader(torch.ones(1, 1)), verbose=False)
    assert len(model.validated) == 1


def test_never_means_never(tmp_path):
    assert fit(tmp_path, max_epochs=2, check_val_every_n_epoch=NEVER)[1] == []
