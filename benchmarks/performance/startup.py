"""Measure how much the registration hook slows every start of Python and every start of ``anomalib``.

Registration by name works through a ``.pth`` file that Python reads at each start, so programs that never use anomalib
pay for it, too. Two commands are measured by processor time, as pairs of fresh processes in alternating order, so that
a machine that slows down slows both:

- interpreter: ``python -c pass`` in two empty virtual environments, one of which holds the hook's files;
- command: ``anomalib --help`` in this environment, with the hook and with ``ANOMALIB_ANOSEG_AUTOLOAD=0``. The hook's
  time includes the import of every registered model.

``--check`` requires that the median difference between paired interpreter starts is below 1 ms, and that this
environment's interpreter has loaded the hook, but neither torch nor anomalib. Page: startup.md.

    python -m benchmarks.performance.startup [--rounds 300] [--quick] [--json startup.json] [--check]
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anomalib_anoseg
from benchmarks.common import begin, make_parser, quartiles, write_json

if TYPE_CHECKING:
    import argparse

LIMIT_MS = 1.0
PACKAGE = Path(anomalib_anoseg.__file__).parent


@dataclass
class Comparison:
    """Paired times of two commands in milliseconds; quartiles describe the spread between rounds."""

    name: str
    rounds: int
    without_ms: float
    with_ms: float
    difference_ms: float
    difference_quartiles_ms: tuple[float, float]
    ratio: float

    def __str__(self) -> str:
        """Return the figures on one line."""
        low, high = self.difference_quartiles_ms
        return (
            f"{self.name:<12} without {self.without_ms:9.2f} ms   with {self.with_ms:9.2f} ms   "
            f"difference {self.difference_ms:+8.3f} ms [{low:+.3f}, {high:+.3f}]   "
            f"ratio {self.ratio:.3f}   ({self.rounds} rounds)"
        )


@dataclass
class Start:
    """A command and the environment variables it is started with."""

    command: list[str]
    environment: dict[str, str]

    def milliseconds(self) -> float:
        """Measure the processor time of one start, from the creation of the process to its end."""
        begin = processor_seconds()
        subprocess.run(self.command, env=self.environment, check=True, capture_output=True)
        return (processor_seconds() - begin) * 1e3


def processor_seconds() -> float:
    """Read the processor time of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compare(name: str, without: Start, with_hook: Start, rounds: int) -> Comparison:
    """Time both starts ``rounds`` times, alternating which of them goes first."""
    for start in (without, with_hook):  # fills the file cache and writes the bytecode files
        start.milliseconds()
    pairs = []
    for number in range(rounds):
        first, second = (without, with_hook) if number % 2 else (with_hook, without)
        times = first.milliseconds(), second.milliseconds()
        pairs.append(times if number % 2 else times[::-1])
    differences = [b - a for a, b in pairs]
    low, median, high = quartiles(differences)
    medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
    return Comparison(
        name=name,
        rounds=rounds,
        without_ms=medians[0],
        with_ms=medians[1],
        difference_ms=median,
        difference_quartiles_ms=(low, high),
        ratio=medians[1] / medians[0],
    )


def interpreter_start(folder: Path, *, hook: bool) -> Start:
    """Create an empty virtual environment, with or without the hook, and return the start of its interpreter."""
    venv.create(folder, with_pip=False)
    python = next(folder.glob("[bS]*/python*"))
    if hook:
        site_packages = next(folder.rglob("site-packages"))
        (site_packages / PACKAGE.name).mkdir()
        shutil.copy(PACKAGE / "__init__.py", site_packages / PACKAGE.name)
        shutil.copytree(PACKAGE / "_autoload", site_packages / PACKAGE.name / "_autoload")
        (site_packages / "anomalib_anoseg.pth").write_text(installed_pth(), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ANOMALIB"))}
    return Start([str(python), "-c", "pass"], environment)


def installed_pth() -> str:
    """Return the ``.pth`` file that this environment's interpreter has read, or the one of the repository."""
    folders = (*map(Path, sys.path), PACKAGE.parent)
    return next(path for folder in folders if (path := folder / "anomalib_anoseg.pth").is_file()).read_text("utf-8")


def command_start(*, hook: bool) -> Start:
    """Return the start of ``anomalib --help`` in this environment."""
    script = shutil.which("anomalib", path=str(Path(sys.executable).parent))
    if script is None:
        raise SystemExit(f"no anomalib command beside {sys.executable}; run this in an environment with anomalib")
    return Start([script, "--help"], os.environ | {"ANOMALIB_ANOSEG_AUTOLOAD": "1" if hook else "0"})


def roots_loaded_at_start() -> list[str]:
    """Return which of the packages in question this environment's interpreter loads at its start."""
    code = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    environment = {name: value for name, value in os.environ.items() if name != "ANOMALIB_ANOSEG_AUTOLOAD"}
    process = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=Path(sys.prefix), check=True, capture_output=True, text=True
    )
    return sorted({"anomalib_anoseg", "anomalib", "torch", "lightning"} & set(process.stdout.split()))


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__, "check")
    parser.add_argument("--rounds", type=int, default=300, help="pairs of interpreter starts (default: 300)")
    parser.add_argument("--command-rounds", type=int, default=5, help="pairs of `anomalib --help` (default: 5)")
    parser.add_argument("--quick", action="store_true", help="100 pairs of interpreter starts, no `anomalib --help`")
    parsed = parser.parse_args()
    if parsed.quick:
        parsed.rounds, parsed.command_rounds = 100, 0
    if parsed.rounds < 2 or parsed.command_rounds == 1 or parsed.command_rounds < 0:
        parser.error("a spread needs --rounds >= 2, and --command-rounds >= 2 or 0 to leave the command out")
    return parsed


def main() -> int:
    """Measure, print, and return the exit status."""
    options = arguments()
    begin(options)
    with tempfile.TemporaryDirectory() as folder:
        bare = interpreter_start(Path(folder, "without"), hook=False)
        hooked = interpreter_start(Path(folder, "with"), hook=True)
        comparisons = [compare("interpreter", bare, hooked, options.rounds)]
    if options.command_rounds:
        starts = command_start(hook=False), command_start(hook=True)
        comparisons.append(compare("command", *starts, options.command_rounds))
    loaded = roots_loaded_at_start()
    passed = comparisons[0].difference_ms < LIMIT_MS and loaded == ["anomalib_anoseg"]

    for comparison in comparisons:
        print(comparison)
    print(f"loaded at start of {sys.executable}: {', '.join(loaded) or 'none'} (expected: anomalib_anoseg only)")
    print(f"{'passed' if passed else 'FAILED'}: limit {LIMIT_MS} ms per interpreter start")
    write_json(
        options,
        limit_ms=LIMIT_MS,
        passed=passed,
        loaded_at_start=loaded,
        comparisons=[asdict(comparison) for comparison in comparisons],
    )
    return int(options.check and not passed)


if __name__ == "__main__":
    sys.exit(main())
