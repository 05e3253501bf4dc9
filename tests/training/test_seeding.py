"""Seeds that are owned by the model, and a global stream that comes back."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anomalib_anoseg.training.seeding import SeededFit, seeded_weights, step_seed


def draws():
    return torch.rand(1).item(), np.random.rand(), random.random()


def states():
    return torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()


def test_weights_follow_from_the_seed_alone():
    def build(seed):
        with seeded_weights(seed):
            return torch.nn.Linear(4, 4).weight

    before = torch.get_rng_state()
    torch.rand(5)
    assert torch.equal(build(1), build(1))
    assert not torch.equal(build(1), build(2))
    torch.set_rng_state(before)
    build(1)
    assert torch.equal(torch.get_rng_state(), before)
    build(None)
    assert not torch.equal(torch.get_rng_state(), before)


def test_step_seeds_do_not_repeat():
    seeds = {step_seed(seed, rank, step) for seed in range(3) for rank in range(3) for step in range(50)}
    assert len(seeds) == 450
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("ends", ["on_fit_end", "on_exception"])
def test_fit_borrows_the_global_streams(ends):
    before, callback = states(), SeededFit(seed=0)
    callback.setup(None, None, "fit")
    callback.on_train_epoch_start(SimpleNamespace(current_epoch=0), None)
    first_epoch = draws()
    callback.on_train_epoch_start(SimpleNamespace(current_epoch=1), None)
    second_epoch = draws()
    getattr(callback, ends)(None, None, *[None] * (ends == "on_exception"))
    assert torch.equal(states()[0], before[0])
    assert states()[1:] == before[1:]

    other = SeededFit(seed=0)
    other.setup(None, None, "fit")
    other.on_load_checkpoint(SimpleNamespace(training=True), None, {"epoch": 0})
    other.on_train_epoch_start(SimpleNamespace(current_epoch=1), None)
    assert draws() == second_epoch
    assert first_epoch != second_epoch
    other.on_fit_end(None, None)


def test_without_a_seed_nothing_is_touched():
    callback, before = SeededFit(seed=None), torch.get_rng_state()
    callback.setup(None, None, "fit")
    callback.on_train_epoch_start(SimpleNamespace(current_epoch=0), None)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    callback.on_fit_end(None, None)
    assert not torch.equal(torch.get_rng_state(), before)
