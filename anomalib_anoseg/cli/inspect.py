"""``anomalib-anoseg inspect``: judge pictures by an exported file, where neither torch nor anomalib is installed.

Its parser is the standard library's, because jsonargparse may be absent there, too.
"""

from __future__ import annotations

import math
import signal
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomalib_anoseg.deploy.inspection.journal import Tally

__all__ = ["inspect", "make_parser", "status_of"]

CODES = """\
exit status:
  0    all pictures were judged, and none is anomalous
  1    all pictures were judged, and some are anomalous
  2    an argument or the file is wrong, or a result cannot be written
  3    some pictures could not be judged: see "error" in results.jsonl
  130  after Ctrl-C; the same command goes on
  141  what reads the output has ended, such as `head`; all results are written

All pictures count that have results in DIR, also those of earlier runs."""


def make_parser() -> ArgumentParser:
    """Make the parser of the subcommand."""
    parser = ArgumentParser(
        prog="anomalib-anoseg inspect",
        description="Judge pictures by an exported file, without torch.",
        epilog=CODES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="the exported file: .onnx, or .xml of OpenVINO")
    parser.add_argument("pictures", metavar="PICTURES", type=Path, nargs="+", help="pictures, or folders of pictures")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="for results.jsonl, results.csv, overlays and masks"
    )
    parser.add_argument(
        "--rate", type=_rate, help="false alarm rate, such as 0.01; without it the file's own thresholds decide"
    )
    parser.add_argument(
        "--overlays",
        choices=("all", "anomalous", "none"),
        default="anomalous",
        help="pictures with what was found (default: anomalous)",
    )
    parser.add_argument("--masks", action="store_true", help="write a mask of each picture: white is anomalous")
    parser.add_argument("--coco", action="store_true", help="write coco.json at the end, for FiftyOne or Label Studio")
    parser.add_argument("--watch", action="store_true", help="wait for more pictures in the folders, until Ctrl-C")
    return parser


def inspect(**arguments: Any) -> Tally:  # noqa: ANN401 - those of the parser
    """Inspect pictures."""
    from anomalib_anoseg.deploy.inspection.inspection import inspect_pictures  # noqa: PLC0415

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service is ended like that
    return inspect_pictures(**arguments)


def status_of(tally: Tally) -> int:
    """Choose the exit status.

    Example:
        >>> from anomalib_anoseg.deploy.inspection.journal import Tally
        >>> [status_of(tally) for tally in (Tally(5), Tally(4, 1), Tally(4, 1, {"torn.png"}))]
        [0, 1, 3]
    """
    return 3 if tally.unreadable else int(tally.anomalous > 0)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < 1:
        raise ArgumentTypeError(f"must be a number between 0 and 1, such as 0.01, got {text!r}")
    return rate
