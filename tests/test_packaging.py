"""What users install: the wheel built from the source distribution, and the editable installation.

Both must place ``anomalib_anoseg.pth`` where the interpreter reads it, and take it away again when uninstalled.
"""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Whatever git or the build backend ignores.
SHIPPED = {
    path.relative_to(ROOT).as_posix()
    for folder in ("anomalib_anoseg", "configs")
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}
HOOK = "import sys; print(*(type(finder).__module__ for finder in sys.meta_path))"


def run(*command, **options):
    process = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=600, **options
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process


class Environment:
    """A virtual environment with nothing in it: neither pip, nor anomalib, nor torch."""

    def __init__(self, folder):
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        self.python = next(folder.glob("[bS]*/python*"))
        self.site_packages = next(folder.rglob("site-packages"))

    def pip(self, *arguments):
        run(sys.executable, "-m", "pip", "--python", self.python, *arguments)

    def install(self, wheel):
        self.pip("install", "--no-deps", "--no-index", "--quiet", wheel)

    def execute(self, code):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ANOMALIB"))}
        return run(self.python, "-W", "ignore", "-c", code, cwd=self.site_packages.parent, env=environment)


@pytest.fixture
def environment(tmp_path):
    return Environment(tmp_path / "environment")


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The source distribution and the wheel that is built from it, not from the repository."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(archives):
    return archives[1]


@pytest.fixture(scope="module")
def editable_wheel(tmp_path_factory):
    """What ``pip install -e .`` asks the build backend for."""
    folder = tmp_path_factory.mktemp("editable")
    code = f"from hatchling.build import build_editable; build_editable({str(folder)!r})"
    run(sys.executable, "-c", code, cwd=ROOT)
    return next(folder.glob("*.whl"))


def test_source_distribution_holds_what_the_wheel_and_its_tests_need(archives):
    with tarfile.open(archives[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {
        "pyproject.toml",
        "anomalib_anoseg.pth",
        "anomalib_anoseg/_autoload/__init__.py",
        "tests/test_packaging.py",
        ".ci/run",
        ".github/CONTRIBUTING.md",
        "CITATION.cff",
    }
    assert needed | SHIPPED <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(".git/")]


def test_wheel_holds_the_package_and_the_pth_file_only(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert archive.read("anomalib_anoseg.pth") == (ROOT / "anomalib_anoseg.pth").read_bytes()
        entry_points = next(archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"anomalib_anoseg", "anomalib_anoseg.pth"}
    assert "anomalib_anoseg/py.typed" in names
    assert {name.replace("configs/", "anomalib_anoseg/configs/", 1) for name in SHIPPED} <= set(names)
    assert "[anomalib.models]\nAnoSeg = anomalib_anoseg.models.anoseg.lightning_model:AnoSeg" in entry_points


@pytest.mark.parametrize("kind", ["wheel", "editable_wheel"])
def test_installation_adds_the_hook_and_uninstallation_leaves_nothing(kind, environment, request):
    before = sorted(environment.site_packages.rglob("*"))
    assert "anomalib_anoseg" not in environment.execute(HOOK).stdout

    environment.install(request.getfixturevalue(kind))
    process = environment.execute(HOOK)
    assert process.stdout.split()[0] == "anomalib_anoseg._autoload"
    assert not process.stderr

    environment.pip("uninstall", "--yes", "--quiet", "anomalib-anoseg")
    process = environment.execute(HOOK)
    assert "anomalib_anoseg" not in process.stdout
    assert not process.stderr
    assert sorted(environment.site_packages.rglob("*")) == before


def test_pth_file_left_behind_is_harmless(environment):
    (environment.site_packages / "anomalib_anoseg.pth").write_bytes((ROOT / "anomalib_anoseg.pth").read_bytes())
    process = environment.execute(HOOK)
    assert "anomalib_anoseg" not in process.stdout
    assert not process.stderr


def test_installed_wheel_registers_with_the_real_host(environment, wheel):
    environment.install(wheel)
    # Lend anomalib and torch from the environment of this test run; what the wheel has installed is found before.
    lent = [folder for folder in sys.path if Path(folder).name == "site-packages"]
    (environment.site_packages / "zz_lent.pth").write_text("\n".join(lent))
    process = environment.execute(
        "from anomalib.models import AnoSeg; import sys; print(sys.modules[AnoSeg.__module__])\n"
        "from anomalib_anoseg.common.presets import find_preset; print(find_preset('laptop').is_file())\n"
        "print(find_preset('laptop'))"
    )
    module, has_presets, preset = process.stdout.splitlines()
    assert str(environment.site_packages) in module
    assert (has_presets, Path(preset).is_relative_to(environment.site_packages)) == ("True", True)
    assert "anomalib-anoseg" not in process.stderr
