"""Run the tests of what trainings learn with other seeds, and with floats that round differently.

A test that holds by luck fails on the next processor. Tests with the marker `learns` take the seed of their training
from the fixture `training_seed`; threads and oneDNN's instruction sets change in which order floats are added up. Each
setting is a pytest of its own; they run one after the other.

    python tests/check_margins.py [--seeds 0 1 2 3 4] [--threads 1 2] [--isas AVX2 AVX512_CORE] [-- PYTEST_OPTIONS]

Prints a row a test and a column a kind of rounding, with a letter a seed: `.` passed, `F` failed, `-` did not run.
Exits 1 if any failed.
"""

import argparse
import itertools
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[1]
SHORT = ["-q", "--tb=short", "--show-capture=no", "--disable-warnings"]
PASSED, FAILED, MISSING = ".F-"


class Rounding(NamedTuple):
    """What changes how floats round: oneDNN's instruction set, and by how many threads sums are split."""

    isa: str
    threads: int

    def __str__(self) -> str:
        return f"{self.isa} x{self.threads}"


def run(seed: int, rounding: Rounding, options: list[str]) -> dict[str, str]:
    """Run the tests once; the letter of each."""
    threads = str(rounding.threads)
    environment = os.environ | {
        "ANOSEG_TEST_SEED": str(seed),
        "ANOSEG_TEST_THREADS": threads,
        "OMP_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "passive",
        "ONEDNN_MAX_CPU_ISA": rounding.isa,
    }
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "learns", f"--junitxml={report}", *SHORT, *options]
        made = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        if not report.exists():
            raise SystemExit(f"{made.stdout}{made.stderr}pytest ended with {made.returncode}: no report")
        cases = ET.parse(report).getroot().iter("testcase")
        letters = {
            f"{case.get('classname', '').removeprefix('tests.')}::{case.get('name')}": letter_of(case) for case in cases
        }
    if FAILED in letters.values():
        print(made.stdout, file=sys.stderr, flush=True)
    return letters


def letter_of(case: ET.Element) -> str:
    if case.find("skipped") is not None:
        return MISSING
    return PASSED if case.find("failure") is case.find("error") is None else FAILED


def print_table(letters: dict[str, dict[Rounding, str]], roundings: list[Rounding]) -> None:
    width = max(map(len, letters), default=0)
    print(" " * width, *roundings, sep="  ")
    for test, by_rounding in letters.items():
        print(test.ljust(width), *(by_rounding[rounding].ljust(len(str(rounding))) for rounding in roundings), sep="  ")


def main() -> int:
    """Try all settings; 1 if a test failed or there was none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--isas", nargs="+", default=["AVX2", "AVX512_CORE"])
    parser.add_argument("options", nargs="*", help="for pytest, behind --")
    arguments = parser.parse_args()
    roundings = [Rounding(isa, threads) for isa in arguments.isas for threads in arguments.threads]
    letters: dict[str, dict[Rounding, str]] = defaultdict(lambda: dict.fromkeys(roundings, ""))
    for seed, rounding in itertools.product(arguments.seeds, roundings):
        print(f"seed {seed}, {rounding}", file=sys.stderr, flush=True)
        found = run(seed, rounding, arguments.options)
        for test in letters.keys() | found.keys():
            letters[test][rounding] += found.get(test, MISSING)
    print_table(dict(sorted(letters.items())), roundings)
    return int(not letters or any(FAILED in row for by in letters.values() for row in by.values()))


if __name__ == "__main__":
    sys.exit(main())
