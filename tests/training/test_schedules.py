"""Schedules know how far a training is, whatever bounds it."""

from datetime import timedelta

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from anomalib_anoseg.training.schedules import LinearDecay, StepDecay, timed


def trainer(**settings):
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, **settings)


def test_learning_rate_falls_over_the_fractions_of_the_training():
    decay = LinearDecay(0.5, 100)
    assert [decay(step) for step in (0, 50, 75, 100, 101)] == [1, 1, 0.5, 0, 0]
    assert LinearDecay(1.0, 100)(101) == 1
    assert LinearDecay(0.5, float("inf"))(10**6) == 1


def test_learning_rate_falls_in_steps():
    decay = StepDecay((0.5, 0.7, 0.9), 0.1, 100)
    assert [decay(step) for step in (0, 49, 50, 70, 90)] == pytest.approx([1, 1, 0.1, 0.01, 0.001])
    assert StepDecay((0.5,), 0.1, float("inf"))(10**6) == 1


@pytest.mark.parametrize("callbacks", [[], [Timer()]], ids=["none", "measures, but bounds nothing"])
def test_without_time_steps_count(callbacks):
    decay = LinearDecay(0.5, 100)
    follow = timed(decay, trainer(callbacks=callbacks))
    assert [follow(step) for step in (0, 50, 75, 100)] == [decay(step) for step in (0, 50, 75, 100)]


def test_with_time_whatever_is_farther_counts(monkeypatch):
    follow = timed(LinearDecay(0.5, 100), trainer(max_time=timedelta(seconds=40)))
    monkeypatch.setattr(Timer, "time_elapsed", lambda *_: 30.0)
    assert [follow(step) for step in (0, 60, 80)] == pytest.approx([0.5, 0.5, 0.4])
    monkeypatch.setattr(Timer, "time_elapsed", lambda *_: 41.0)  # the last step ends after the time is up
    assert follow(0) == 0


@pytest.mark.parametrize("settings", [{}, {"max_time": "00:00:00:40"}], ids=str)
def test_checkpoints_hold_neither_the_timer_nor_the_length(settings):
    """A training that goes on for longer follows its new length, whatever an earlier version had saved."""
    saved = LambdaLR(SGD([torch.zeros(1)], 1.0), timed(LinearDecay(0.5, 2), trainer(**settings))).state_dict()
    assert saved["lr_lambdas"] == [None]
    scheduler = LambdaLR(SGD([torch.zeros(1)], 1.0), timed(LinearDecay(0.5, 100), trainer(**settings)))
    scheduler.load_state_dict(saved | {"lr_lambdas": [{"start": 0.5, "total": 2}]})
    assert scheduler.lr_lambdas[0](75) == pytest.approx(0.5)
