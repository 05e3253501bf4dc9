"""Checkpoints are whole, wherever a training stops."""

import copy
import errno
import logging
from pathlib import Path

import pytest
import torch
from anomalib.engine import Engine
from anomalib.engine.plugins import AnomalibCheckpointIO
from lightning.pytorch import Callback, Trainer

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.training.safe_checkpoints import SafeCheckpoints, write_checkpoints_whole

QUIET = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "logger"), False)


def engine(root, *callbacks, **trainer):
    return Engine(
        callbacks=list(callbacks), accelerator="cpu", devices=1, default_root_dir=root, **{**QUIET, **trainer}
    )


def tiny():
    return AnoSeg((64, 64), network={"width": 0.05}, optimizer={"averaging": 0.5}, visualizer=False)


class CtrlC(Callback):
    """Presses it after a number of steps."""

    def __init__(self, after):
        self.after = after

    def on_train_batch_end(self, *_):
        self.after -= 1
        if not self.after:
            raise KeyboardInterrupt


def differing(model, checkpoint):
    """Names of the parameters that are not the checkpoint's."""
    return {name for name, value in model.named_parameters() if not torch.equal(value, checkpoint["state_dict"][name])}


@pytest.fixture
def attached(tmp_path):
    """A trainer whose model could be saved, without a training."""
    started = engine(tmp_path)
    started._setup_trainer(model := tiny())
    trainer = started.trainer
    trainer.strategy.connect(model)
    SafeCheckpoints().setup(trainer, model, "fit")
    return trainer


def test_a_full_disk_leaves_the_checkpoint_before(attached, tmp_path, monkeypatch):
    path = tmp_path / "weights" / "model.ckpt"
    attached.save_checkpoint(path)
    before = path.read_bytes()

    def fail(content, file):
        del content
        file.write(before[: len(before) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match=r"No space left .* unchanged: '.*model\.ckpt'") as caught:
        attached.save_checkpoint(path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_checkpoints_are_written_beside_their_place(attached, tmp_path, monkeypatch):
    """Not in the folder of temporary files, from which Lightning copies over the checkpoint before."""
    places, save = [], torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: (places.append(file), save(content, file)))
    attached.save_checkpoint(tmp_path / "model.ckpt")
    assert Path(places[0].name).parent.parent == tmp_path
    assert torch.load(tmp_path / "model.ckpt", weights_only=True)["state_dict"].keys() == tiny().state_dict().keys()


def test_the_way_of_writing_is_replaced_once_and_never_that_of_users(attached):
    own = attached.strategy.checkpoint_io
    write_checkpoints_whole(attached)
    assert attached.strategy.checkpoint_io is own
    assert isinstance(own, AnomalibCheckpointIO)
    trainer = Trainer(accelerator="cpu", **QUIET)
    theirs = trainer.strategy.checkpoint_io
    write_checkpoints_whole(trainer)
    assert trainer.strategy.checkpoint_io is theirs


def test_ctrl_c_between_validations_writes_a_checkpoint_and_says_where(tiny_data, tmp_path, caplog):
    started = engine(tmp_path, CtrlC(after=3), max_epochs=5, check_val_every_n_epoch=5)
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit):
        started.fit(tiny(), datamodule=copy.deepcopy(tiny_data))
    (path,) = tmp_path.rglob("interrupted.ckpt")
    assert list(path.parent.iterdir()) == [path]
    assert f"Wrote {path}: to go on from there, run `anomalib fit`" in caplog.text
    stopped = torch.load(path, weights_only=True)
    assert (stopped["epoch"], stopped["global_step"]) == (1, 6)  # two optimisers, two batches an epoch

    resumed = engine(tmp_path, max_epochs=3)
    with caplog.at_level(logging.INFO):
        resumed.train(model := tiny(), datamodule=copy.deepcopy(tiny_data), ckpt_path=path)
    assert resumed.trainer.current_epoch == 3
    # anomalib would test the checkpoint that the training went on from.
    assert f"Testing the weights of this training, not those of {path}." in caplog.text
    kept = torch.load(resumed.trainer.checkpoint_callback.best_model_path, weights_only=True)
    assert differing(model, kept) == set()
    # Whoever asks for that checkpoint gets it.
    resumed.test(model, datamodule=copy.deepcopy(tiny_data), ckpt_path=path)
    assert differing(model, stopped) == set()
    assert differing(model, kept)


def test_nothing_is_written_where_no_training_was_stopped(attached, tmp_path):
    SafeCheckpoints().on_exception(attached, attached.lightning_module, KeyboardInterrupt())
    assert not list(tmp_path.rglob("*.ckpt"))
