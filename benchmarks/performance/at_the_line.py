"""Measure what `anomalib-anoseg inspect` needs at the line: the size of its environment, and a first picture's time.

For each runtime an environment is made by the commands of the guide to inspections. A model of the recommended preset
is trained for some steps on the demonstration data and exported. Then processes are started in turns, each of which
judges a picture of 5 megapixels and draws its overlay, from the start of the command to its end: processor time, which
other processes do not stretch, and wall time. The size is that of `site-packages` without pip and setuptools, as `du`
counts it. Page: at_the_line.md.

    python -m benchmarks.performance.at_the_line --markdown --check
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from functools import partial
from pathlib import Path

import timm
import torch

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.deploy.forms import export_forms
from anomalib_anoseg.deploy.runtimes import Form
from benchmarks.common import (
    Samples,
    begin,
    exit_status,
    format_table,
    in_turns,
    make_parser,
    write_json,
)
from benchmarks.experiments.judging import make_data
from benchmarks.experiments.trainings import make_engine, of_preset
from benchmarks.performance.pictures import write_pictures

ROOT = Path(__file__).resolve().parents[2]
FORMS = (Form("openvino", "FP32"), Form("onnxruntime", "float32"))
LIMIT_MB, LIMIT_S = 300, 2.0
TOOLS = re.compile(r"pip|setuptools|pkg_resources|_distutils_hack|distutils-precedence")


def main() -> int:
    """Measure, print, and return the exit status."""
    options = arguments()
    begin(options)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder / "pictures", 1, options.megapixels, options.seed)
        model = train(folder / "training", options)
        files, left_out = export_forms(model, folder / "exported", None, list, FORMS)
        if left_out:
            raise SystemExit(f"not exported: {left_out}")
        places = {form.runtime: Path(sys.prefix) if options.here else folder / form.runtime for form in files}
        sizes = {} if options.here else {runtime: install(place, runtime) for runtime, place in places.items()}
        wall: Samples = {form.runtime: [] for form in files}
        turns = {
            form.runtime: partial(first_picture, places[form.runtime], path, folder, wall[form.runtime])
            for form, path in files.items()
        }
        in_turns("seconds, before files are in memory", turns, 1)
        seconds = in_turns("seconds", turns, options.rounds)
    lines = [["", "site-packages, MB", "first picture, s", "from", "to", "wall time, s"]]
    outcomes = {}
    for runtime, values in seconds.items():
        middle, size = statistics.median(values), sizes.get(runtime, 0)
        figures = (middle, min(values), max(values), statistics.median(wall[runtime][1:]))
        lines.append([runtime, str(size or "-"), *(f"{value:.2f}" for value in figures)])
        outcomes[runtime] = "passed" if size < LIMIT_MB and middle < LIMIT_S else "FAILED"
    print(format_table(lines, markdown=options.markdown))
    print(f"less than {LIMIT_MB} MB and {LIMIT_S:g} s: {outcomes}")
    write_json(options, megabytes=sizes, seconds=seconds, wall=wall, outcomes=outcomes)
    return exit_status(set(outcomes.values())) if options.check else 0


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__, "seed", "threads", "markdown", "check")
    parser.add_argument("--steps", type=int, default=20, help="of the training (default: 20)")
    parser.add_argument("--megapixels", type=float, default=5.0, help="size of the picture (default: 5)")
    parser.add_argument("--rounds", type=int, default=7, help="processes of each runtime, in turns (default: 7)")
    parser.add_argument("--here", action="store_true", help="time this environment, and install nothing")
    return parser.parse_args()


def train(folder: Path, options: argparse.Namespace) -> AnoSeg:
    """Train for some steps, with an encoder of random weights, which take as long as others."""
    folder.mkdir()
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), folder / "random.pth")
    model: AnoSeg = of_preset("laptop_pretrained", folder / "random.pth", seed=options.seed)
    make_engine(folder, max_steps=options.steps, max_epochs=-1).fit(model, datamodule=make_data(None))
    return model


def install(folder: Path, runtime: str) -> int:
    """Make an environment as the guide says; return the megabytes of what was installed, in blocks of the drive."""
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for packages in (["numpy", "pillow", "filelock", runtime], ["--no-deps", str(ROOT)]):
        subprocess.run([*pip, *packages], check=True)
    installed = next(folder.rglob("site-packages"))
    kept = [str(path) for path in installed.iterdir() if not TOOLS.match(path.name)]
    listed = subprocess.run(["du", "-cm", "-s", *kept], check=True, capture_output=True, text=True).stdout
    return int(listed.splitlines()[-1].split()[0])


def first_picture(environment: Path, model: Path, folder: Path, wall: list[float]) -> float:
    """Judge a picture in a fresh process; return the seconds of the processor, and note those of the wall."""
    out = folder / "results"
    shutil.rmtree(out, ignore_errors=True)
    command = [str(environment / "bin" / "anomalib-anoseg"), "inspect", str(model), str(folder / "pictures")]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    before, begun = os.times(), time.perf_counter()
    process = subprocess.run(
        [*command, "--out", str(out), "--overlays", "all"], env=variables, capture_output=True, text=True, check=False
    )
    wall.append(time.perf_counter() - begun)
    after = os.times()
    if process.returncode not in {0, 1}:  # normal, anomalous
        raise SystemExit(process.stderr)
    return after.children_user - before.children_user + after.children_system - before.children_system


if __name__ == "__main__":
    sys.exit(main())
