"""What the shape of the code promises: who may import whom, how long files are, and what imports cost."""

import ast
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import anomalib_anoseg
from anomalib_anoseg import SGSF, AnoSeg
from anomalib_anoseg.data import DemoTextures

PACKAGE = Path(anomalib_anoseg.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# Rooms from the top to the bottom: each may import from itself and from those that stand here, and from no other.
MAY_IMPORT = {
    "cli": {"_autoload", "board", "deploy", "models", "training", "transforms", "data", "common"},
    "board": {"models", "deploy", "training", "transforms", "metrics", "data", "common"},
    "models": {"deploy", "training", "transforms", "metrics", "common"},
    "deploy": {"training", "transforms", "common"},
    "training": {"transforms", "metrics", "common"},
    "transforms": {"common"},
    "metrics": {"common"},
    "data": {"common"},
    "common": set(),
    "_autoload": set(),
}
# Rooms within rooms, likewise: who may import whom of the same folder.
WITHIN = {
    "models": {"anoseg": set(), "sgsf": set()},
    "board": {
        "run": set(),
        "baselines": {"run"},
        "measure": {"run"},
        "report": {"run"},
    },
}
# Where the names of the package itself come from.
EXPORTED = {"AnoSeg": "models.anoseg", "SGSF": "models.sgsf", "__version__": ""}
ENTRANCES = {"__init__", "__main__", "_autoload", "cli"}


def imported_modules(file):
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: {ast.unparse(node)} is relative"
            is_package = node.module == "anomalib_anoseg"
            inner = [EXPORTED.get(alias.name, alias.name) for alias in node.names]
            names = [f"{node.module}.{name}" for name in inner if name] if is_package else [node.module]
        yield from (name.split(".")[1:] for name in names if name.startswith("anomalib_anoseg."))


def test_the_top_level_has_eight_rooms_and_each_is_guarded():
    names = {path.stem for path in PACKAGE.iterdir() if path.name not in {"__pycache__", "py.typed", "README.md"}}
    assert names - ENTRANCES <= MAY_IMPORT.keys()
    assert len(names - ENTRANCES) <= 8


@pytest.mark.parametrize("line", ["import {}", "from {} import x", "import numpy, {} as x"])
@pytest.mark.parametrize("module", ["anomalib_anoseg.board", "anomalib_anoseg.board.run"])
def test_an_import_is_found_in_each_form(line, module, tmp_path):
    (tmp_path / "file.py").write_text(line.format(module))
    assert [found[0] for found in imported_modules(tmp_path / "file.py")] == ["board"]


def test_a_room_is_found_in_an_import_from_the_package(tmp_path):
    (tmp_path / "file.py").write_text("def f():\n    from anomalib_anoseg import __version__, board, SGSF")
    assert list(imported_modules(tmp_path / "file.py")) == [["board"], ["models", "sgsf"]]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_one_way(file):
    room, *inner = file.relative_to(PACKAGE).with_suffix("").parts
    if room not in MAY_IMPORT:
        assert room in ENTRANCES
        return
    modules = list(imported_modules(file))
    assert {module[0] for module in modules} <= MAY_IMPORT[room] | {room}
    if inner[0] in WITHIN.get(room, {}):
        siblings = {module[1] for module in modules if module[0] == room and module[1:2]} & WITHIN[room].keys()
        assert siblings <= WITHIN[room][inner[0]] | {inner[0]}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_files_stay_short(file):
    # A model's constructor names and documents every argument, because anomalib's command line is made from it.
    limit = 400 if file.name == "lightning_model.py" else 310
    assert len(file.read_text().splitlines()) <= limit


def test_tests_lie_in_the_rooms_of_what_they_test():
    tests = Path(__file__).parent
    folders = {file.parent.relative_to(tests) for file in tests.rglob("test_*.py")}
    assert [folder for folder in folders if not (PACKAGE / folder).is_dir()] == []
    assert MAY_IMPORT.keys() <= {folder.parts[0] for folder in folders if folder.parts}


def test_every_room_says_what_it_is_for():
    rooms = {file.parent for file in FILES}
    assert [room for room in rooms if not ast.get_docstring(ast.parse((room / "__init__.py").read_text()))] == []


@pytest.mark.slow
def test_augmentations_come_without_anomalib(fork, tmp_path):
    code = "import sys, anomalib_anoseg.transforms; sys.exit('anomalib' in sys.modules)"
    assert fork("-c", code, cwd=tmp_path).returncode == 0


def test_inspection_needs_neither_torch_nor_anomalib():
    """At the line there is numpy, Pillow, filelock and a runtime."""
    heavy = (
        *("anomalib", "jsonargparse", "kornia", "lightning", "pandas", "pydantic", "rich", "scipy", "skimage", "timm"),
        *("torch", "tqdm"),
    )
    files = [file for file in FILES if file.parent == PACKAGE / "deploy" / "inspection"]
    modules = ["anomalib_anoseg.cli.main", *(f"anomalib_anoseg.deploy.inspection.{file.stem}" for file in files)]
    code = f"import sys; sys.modules.update(dict.fromkeys({heavy}, None)); import {', '.join(modules)}"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert len(files) > 5


def test_constructors_need_no_network(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    AnoSeg(encoder={"pre_trained": True}), SGSF(extractor={"weights": True}), DemoTextures(tmp_path)
