"""Metrics on two processes: each sees a part of the images, and of the defects, and all know the value of the whole."""

import json

import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUROC

from anomalib_anoseg.metrics import BestIoU, IoUCurveArea, PerDefect

SCRIPT = """
import json, sys
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from anomalib.data import ImageBatch
from anomalib.metrics import AUROC
from anomalib_anoseg.metrics import BestIoU, IoUCurveArea, PerDefect


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    fields = torch.load(f"{folder}/{rank}.pt")
    batch = ImageBatch(**fields)
    pixel = {"fields": ["anomaly_map", "gt_mask"]}
    report = {}
    for metric in (BestIoU(**pixel), IoUCurveArea(**pixel)):
        metric.update(batch)
        report[metric.name] = metric.compute().item()
    for metric in (PerDefect(BestIoU(**pixel)), PerDefect(AUROC(**pixel))):
        metric.update(batch)
        for defect, value in metric.compute().items():
            report[f"{metric.name} {defect}"] = value.item()
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(report, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(work, args=(sys.argv[1],), nprocs=2, start_method="fork")  # imports once, not in each
"""


def make_fields(folders, seed):
    generator = torch.Generator().manual_seed(seed)
    count, is_anomalous = len(folders), torch.tensor([folder != "good" for folder in folders])
    mask = (torch.rand(count, 8, 8, generator=generator) > 0.6) & is_anomalous[:, None, None]
    return {
        "image": torch.zeros(count, 3, 8, 8),
        "image_path": [f"test/{folder}/0.png" for folder in folders],
        "gt_label": is_anomalous,
        "gt_mask": mask,
        "anomaly_map": torch.rand(count, 8, 8, generator=generator) * 0.8 + mask * 0.2,
    }


def test_two_processes_agree_on_the_whole(tmp_path, fork):
    parts = [make_fields(["good", "crack", "dent"], 0), make_fields(["crack", "good"], 1)]
    for rank, part in enumerate(parts):
        torch.save(part, tmp_path / f"{rank}.pt")
    script = tmp_path / "metrics.py"
    script.write_text(SCRIPT)
    run = fork(script, tmp_path, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second == pytest.approx(expected_values(parts))


def expected_values(parts):
    pixel = {"fields": ["anomaly_map", "gt_mask"]}
    metrics = [BestIoU(**pixel), IoUCurveArea(**pixel), PerDefect(BestIoU(**pixel)), PerDefect(AUROC(**pixel))]
    values = {}
    for metric in metrics:
        for part in parts:
            metric.update(ImageBatch(**part))
        value = metric.compute()
        parts_of_it = value.items() if isinstance(value, dict) else [("", value)]
        values |= {f"{metric.name} {defect}".strip(): number.item() for defect, number in parts_of_it}
    return values
