"""Our processes run what is installed, and no file that lies in the current folder."""

import os
import subprocess
import sys

import pytest

from anomalib_anoseg.common.isolation import isolated

SHADOWS = ("jsonargparse", "yaml", "torch", "timm", "pathlib", "json", "mine")


@pytest.fixture
def start(tmp_path):
    """Start Python in a folder full of files with the names of modules, each of which leaves a trace if it runs."""
    folder, library = tmp_path / "here", tmp_path / "library"
    folder.mkdir()
    library.mkdir()
    for name in SHADOWS:
        (folder / f"{name}.py").write_text("raise SystemExit('ran')\n")
    (library / "mine.py").write_text("import gc\ndef main(): print(gc.isenabled(), gc.get_freeze_count() > 1000)\n")
    paths = os.pathsep.join(filter(None, (str(library), os.environ.get("PYTHONPATH"))))

    def start(*arguments):
        command, environment = [sys.executable, *arguments], os.environ | {"PYTHONPATH": paths}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    return start


def test_files_in_the_current_folder_do_not_run(start):
    assert start("-c", "import timm").stderr == "ran\n"
    for command in (("-c", isolated("anomalib_anoseg.cli.main")), ("-m", "anomalib_anoseg")):
        process = start(*command, "--version")
        assert process.stdout.startswith("anomalib-anoseg 0"), process.stderr


def test_what_the_user_put_on_the_path_is_found(start):
    assert start("-c", isolated("mine")).stdout == "True True\n", "what is imported is not searched for garbage"
