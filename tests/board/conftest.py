"""A synthetic run folder, as the board writes it, with figures that a test can compute by hand."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from anomalib_anoseg.board.run.run_folder import Row

METRICS = (
    "image_AUROC",
    "image_F1Score",
    "pixel_AUROC",
    "pixel_AP",
    "pixel_AUPRO",
    "pixel_F1Score",
    "pixel_IoU",
    "pixel_BestIoU",
    "pixel_IoUCurveArea",
)
# Every metric of a job is the base of its model and category plus what its seed adds.
BASES = {
    ("AnoSeg", "brick"): 0.80,
    ("AnoSeg", "screw"): 0.70,
    ("DRAEM", "brick"): 0.75,
    ("DRAEM", "screw"): 0.72,
    ("Mean grey", "brick"): 0.60,
    ("Mean grey", "screw"): 0.71,
    ("Constant map", "brick"): 0.50,
    ("Constant map", "screw"): 0.50,
}
SEED_ADDS = {0: -0.03, 1: 0.0, 2: 0.03}
TRIVIAL = ("Mean grey", "Constant map")
DEFECTS = ("scratch", "stain")
FORMS = (
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("onnxruntime", "FP32"),
    ("openvino", "FP32"),
    ("openvino", "FP16"),
    ("openvino", "INT8"),
)


@pytest.fixture(scope="session")
def make_board():
    """The function that writes a run folder."""
    return write_board


@pytest.fixture(scope="session")
def board(tmp_path_factory):
    """Two models and two trivial rows on two categories with three seeds, with cost; nothing is missing."""
    return write_board(tmp_path_factory.mktemp("board") / "runs", side=32)


def write_board(
    folder,
    labels=("AnoSeg", "DRAEM", *TRIVIAL),
    categories=("brick", "screw"),
    seeds=(0, 1, 2),
    skip=(),
    side=None,
    cost=True,
    change=lambda row: row,
    config="data:\n  init_args:\n    val_split_mode: from_train\n",
):
    """Write a run folder, with pictures if they have a ``side``.

    ``skip`` holds the ids of jobs that failed, ``change`` alters each row.
    """
    jobs = []
    for label in labels:
        for category in categories:
            for seed in seeds:
                key = f"{label.replace(' ', '')}-{category}-seed{seed}"
                settings = {} if label in TRIVIAL else {"max_epochs": 40, "seed": seed}
                jobs.append({"id": key, "label": label, "category": category, "seed": seed, "settings": settings})
                job = folder / "jobs" / key
                job.mkdir(parents=True, exist_ok=True)
                if key in skip:
                    (job / "error.txt").write_text("Traceback:\n  ...\nMemoryError: too <large>\n")
                    continue
                write_job(job, change(make_row(jobs[-1])), side, cost and label not in TRIVIAL)
    write_json(folder / "board.json", {"schema": 1, "config": config, "jobs": jobs})
    return folder


def make_row(job):
    value = BASES.get((job["label"], job["category"]), 0.65) + SEED_ADDS.get(job["seed"], 0)
    finished = f"2026-01-0{1 + job['seed'] % 9}T12:00:00+00:00"
    return {
        "schema": 1,
        **job,
        "model": f"some_package.{job['label'].replace(' ', '')}",
        "dataset": "MVTecAD",
        "metrics": dict.fromkeys(METRICS, value),
        "defects": {
            defect: dict.fromkeys(("pixel_IoU", "pixel_BestIoU", "pixel_AUROC", "image_AUROC"), value - 0.1 * index)
            for index, defect in enumerate(DEFECTS)
        },
        "trivial": job["label"] in TRIVIAL,
        "training": {"seconds": 60.0, "images": 400, "seconds_per_image": 0.15, "epochs": 40, "steps": 200},
        "peak_memory_mb": 900.0,
        "parameters": {"AnoSeg": 1_500_000, "DRAEM": 97_400_000}.get(job["label"], 0),
        "provenance": {
            "calibrated_on": "forged on held-out images",
            "commit": "0123abc",
            "dirty": False,
            "versions": {"anomalib": "2.7.0", "torch": "2.10.0"},
            "python": "3.11.7",
            "platform": "Linux",
            "cpu": "Some CPU",
            "cores": 2,
            "threads": 1,
            "gpu": None,
            "accelerator": "cpu",
            "precision": "32-true",
            "started": "2026-01-01T11:00:00+00:00",
            "finished": finished,
            "wall_seconds": 90.0,
        },
    }


def write_job(job, row, side, cost):
    height = row.get("metrics", {}).get("pixel_IoU") or 0
    thresholds = np.linspace(0, 1, 11)
    curve = pd.DataFrame({"threshold": thresholds, "iou": height * 4 * thresholds * (1 - thresholds)})
    curve.to_csv(job / "curve.csv", index=False)
    if side:
        write_pictures(job, side, np.random.default_rng(row["seed"]))
    if cost and "metrics" in row:
        write_json(job / "cost.json", make_cost(row))
    write_json(job / "row.json", row)


def write_pictures(job, side, rng):
    """Three good images and three of each defect; the higher their number, the higher score and IoU."""
    (job / "maps").mkdir(exist_ok=True)
    images = []
    for defect in ("good", *DEFECTS):
        for index in range(3):
            stem, is_defect = f"{defect}{index}", defect != "good"
            picture, mask, values = draw_image(rng, side, defect, index)
            Image.fromarray(picture).save(job / f"{stem}.png")
            Image.fromarray(mask).save(job / f"{stem}_mask.png")
            Image.fromarray(values).save(job / "maps" / f"{stem}.png")
            images.append({
                "image_path": job / f"{stem}.png",
                "mask_path": job / f"{stem}_mask.png" if is_defect else "",
                "defect": defect,
                "gt_label": int(is_defect),
                "pred_score": 0.2 + 0.1 * index + 0.4 * is_defect,
                "pred_label": int(is_defect),
                "iou": 0.3 * index + 0.05 * (defect == "stain") if is_defect else "",
                "map_path": f"maps/{stem}.png",
            })
    pd.DataFrame(images).to_csv(job / "images.csv", index=False)


def draw_image(rng, side, defect, index):
    picture = rng.normal(120, 8, (side, side, 3)) + 25 * np.sin(np.arange(side) / side * 20)[:, None, None]
    mask = np.zeros((side, side), np.uint8)
    values = rng.uniform(0, 90, (side, side))
    if defect != "good":
        start, size = side // 8 * (index + 1), side // 4
        mask[start : start + size, start : start + size] = 255
        picture[mask > 0] += 90
        values[start : start + size, start + size // 4 : start + size] += 140
    return picture.clip(0, 255).astype(np.uint8), mask, values.clip(0, 255).astype(np.uint8)


def make_cost(row):
    slowness = {"AnoSeg": 1.0, "DRAEM": 6.0}.get(row["label"], 2.0)
    speeds = dict(zip(FORMS, (20.0, 15.0, 12.0, 10.0, 9.0, 4.0), strict=True))
    sizes = {"torch": 6.1, "onnx": 6.0, "openvino FP32": 6.0, "openvino FP16": 3.0, "openvino INT8": 1.6}
    return {
        "schema": 1,
        "parameters": row["parameters"],
        "macs": 2_000_000_000 * slowness,
        "image_size": [128, 128],
        "files_mb": {name: size * slowness for name, size in sizes.items()},
        "latency": [
            {
                "runtime": runtime,
                "precision": precision,
                "batch": batch,
                "median_ms": speed * slowness * batch**0.9,
                "p95_ms": 1.2 * speed * slowness * batch**0.9,
                "rounds": 50,
            }
            for (runtime, precision), speed in speeds.items()
            for batch in (1, 16)
        ],
        "accuracy": [
            {
                "runtime": runtime,
                "precision": precision,
                "image_AUROC": row["metrics"]["image_AUROC"] - 0.02 * (precision == "INT8"),
                "pixel_AUROC": row["metrics"]["pixel_AUROC"],
                "pixel_AP": row["metrics"]["pixel_AP"] - 0.03 * (precision == "INT8"),
                "pixel_IoU": row["metrics"]["pixel_IoU"],
                "images": 9,
            }
            for runtime, precision in FORMS
        ],
        "peak_memory_mb": {" ".join(form): 300.0 * slowness for form in FORMS},
        "threads": 1,
        "load_average": [0.4, 1.2],
        "cpu": "Some CPU",
        "versions": {"openvino": "2025.4"},
        "left_out": {"torch float16": "this CPU has no float16"} if row["label"] == "DRAEM" else {},
    }


def write_json(path, content):
    path.write_text(json.dumps(content))


def row_of(job, **changes):
    """What a job that measured next to nothing leaves."""
    row = Row(
        id=job.id,
        label=job.label,
        model="anomalib_anoseg.AnoSeg",
        dataset=job.dataset,
        category=job.category,
        seed=job.seed,
        settings={},
        metrics={"image_AUROC": 0.5},
        defects={},
        trivial=False,
        training={},
        peak_memory_mb=1.0,
        parameters=1,
        provenance={},
    )
    return replace(row, **changes)
