"""Two processes learn the weights that one learns from the summed batch.

Three things of a training differ by process, and are made equal here. Anomalies and references are drawn anew in each;
here a picture's name decides. Batch normalisation sees the process's own pictures; here those of both, as with
`sync_batchnorm` on GPUs. Balanced losses divide by the anomalous pixels of the process's batch; here all pictures have
equally many. In float64, because Adam's first steps have the size of the learning rate even where a gradient is noise.
"""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import gc, json, sys
gc.disable()  # what imports leave is not searched
import torch
import torch.distributed as dist
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib_anoseg import SGSF, AnoSeg
from lightning.pytorch import Callback
from lightning.pytorch.plugins.layer_sync import LayerSync
from torch import nn
from torch.distributed.nn.functional import all_gather
from torch.utils.data import DataLoader, DistributedSampler
gc.freeze()
gc.enable()

torch.set_num_threads(1)
root, out = sys.argv[1:]


class InOrder(MVTecAD):
    def train_dataloader(self):
        sampler = DistributedSampler(self.train_data, shuffle=False) if dist.is_initialized() else None
        collate = self.train_data.collate_fn
        return DataLoader(self.train_data, self.train_batch_size, sampler=sampler, collate_fn=collate)


class SyncedNorm(nn.BatchNorm2d):
    def forward(self, input):
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        return super().forward(torch.cat(all_gather(input)))[dist.get_rank() * len(input) :][: len(input)]


class SyncOnCpu(LayerSync):
    def apply(self, model):
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = SyncedNorm
        return model

    def revert(self, model):
        return model


class Given:
    def forge(self, image, generator, paths):
        image, mask = image.double(), torch.zeros_like(image[:, :1], dtype=torch.float64)
        for own, path in zip(mask, paths):
            place = 5 * int(str(path)[-5])
            own[:, place : place + 16, 40 - place : 56 - place] = 1
        return torch.where(mask > 0, 1 - image, image), mask

    def rotate(self, image):
        return image.double()


class Report(Callback):
    def on_train_start(self, trainer, module):
        self.start = [weight.detach().clone() for weight in module.model.parameters()]

    def on_train_end(self, trainer, module):
        if trainer.global_rank == 0:
            weights = list(module.model.parameters())
            moved = [(end - start).abs().max().item() for end, start in zip(weights, self.start)]
            torch.save((moved, weights), f"{out}/{trainer.world_size}.pt")


def train(model, devices, **options):
    model.model.double()
    getattr(model.model, "extractor", nn.Identity()).float()  # of SGSF: it is not trained
    model.on_fit_end = lambda: None  # prepares inference, in float32
    model.model.region.outside = lambda _: Given()
    data = InOrder(root, "stripes", train_batch_size=4 // devices, num_workers=0,
                   val_split_mode="from_train", val_split_ratio=0.25, seed=0)
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    Engine(accelerator="cpu", devices=devices, max_epochs=2, use_distributed_sampler=False, limit_val_batches=0,
           default_root_dir=out, callbacks=[Report()], **quiet, **options).fit(model, datamodule=data)


def compare(make, strategy):
    train(make(), 1)
    train(make(), 2, strategy=strategy, plugins=[SyncOnCpu()])
    (moved, alone), (_, both) = (torch.load(f"{out}/{processes}.pt") for processes in (1, 2))
    return [(step, (one - two).abs().max().item()) for step, one, two in zip(moved, alone, both)]


def make_sgsf():
    model = SGSF(extractor={"name": "test_resnet"}, **small)
    model._draw_references = lambda paths, image: image.double().flip(-1)
    return model


small = {"image_size": (64, 64), "network": {"width": 0.125}, "seed": 0}
small |= dict.fromkeys(("post_processor", "evaluator", "visualizer"), False)
report = {"AnoSeg": compare(lambda: AnoSeg(**small), "ddp_fork_find_unused_parameters_true")}
report["SGSF"] = compare(make_sgsf, "ddp_fork")
with open(f"{out}/report.json", "w") as file:
    json.dump(report, file)
"""


@pytest.fixture(scope="module")
def differences(tiny_root, tmp_path_factory):
    """How far each weight moved, and how much it differs between one process and two, by the name of the model."""
    folder = tmp_path_factory.mktemp("summed")
    (folder / "train.py").write_text(SCRIPT)
    command = [sys.executable, folder / "train.py", tiny_root, folder]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize("model", ["AnoSeg", "SGSF"])
def test_two_processes_learn_what_one_learns_from_the_summed_batch(differences, model):
    moves, found = zip(*differences[model], strict=True)
    assert max(found) < 1e-8
    trained = [move for move in moves if move]
    assert len(trained) > 100
    assert min(trained) > 1e-4
