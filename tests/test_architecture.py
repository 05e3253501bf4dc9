"""What the shape of the code promises: who may import whom, how long files are, and what imports cost."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import anomalib_anoseg

PACKAGE = Path(anomalib_anoseg.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# Each may import from the package only what stands here; anything else would make data flow in circles.
MAY_IMPORT = {
    "transforms": {"transforms"},
    "data": {"data"},
    "metrics": {"metrics"},
    "input_checks": set(),
    "reproducibility": set(),
    "registration": set(),
    "export_metadata": set(),
    "doctor": {"data", "doctor", "export_metadata", "leaderboard", "registration"},
    "post_processing": {"transforms"},
    "leaderboard": {
        "data",
        "export_metadata",
        "final_validation",
        "leaderboard",
        "metrics",
        "post_processing",
        "transforms",
    },
    "checkpoints": set(),
    "final_validation": set(),
    "schedules": set(),
    "contact_sheet": set(),
    "preview": {"contact_sheet", "input_checks", "reproducibility", "transforms"},
    "common": {
        "checkpoints",
        "common",
        "export_metadata",
        "final_validation",
        "input_checks",
        "metrics",
        "post_processing",
        "reproducibility",
        "transforms",
    },
    "anoseg": {
        "anoseg",
        "checkpoints",
        "common",
        "input_checks",
        "post_processing",
        "reproducibility",
        "schedules",
        "transforms",
    },
    "sgsf": {"sgsf", "common", "input_checks", "reproducibility", "schedules", "transforms"},
}


def imported_parts(file):
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        yield from (name.split(".")[1] for name in names if name.startswith("anomalib_anoseg."))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_one_way(file):
    part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part in MAY_IMPORT:
        assert set(imported_parts(file)) <= MAY_IMPORT[part]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_files_stay_short(file):
    # A model's constructor names and documents every setting, because anomalib's command line is made from it.
    limit = 450 if file.name == "lightning_model.py" else 310
    assert len(file.read_text().splitlines()) <= limit


def test_augmentations_come_without_anomalib():
    code = "import sys, anomalib_anoseg.transforms; sys.exit('anomalib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_constructors_need_no_network():
    code = (
        "import socket, torch\n"
        "def refuse(*args, **kwargs): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from anomalib_anoseg import AnoSeg, SGSF\n"
        "from anomalib_anoseg.data import DemoTextures\n"
        "AnoSeg(pre_trained=True), SGSF(width=0.125, extractor_weights=True), DemoTextures()\n"
    )
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
