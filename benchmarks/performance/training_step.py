"""Divide the processor time of a training step into its parts: pictures, forging, networks, optimiser.

A preset trains for a number of steps and validates at the end, as ``anomalib fit`` would, on the demonstration data;
with ``--folder`` on pictures of yours. Each part is the time within its functions, without that of other parts within
them; the validation, with its calibration, keeps all of its own and is no part of a step. What no part claims is loops,
hooks and logs, Lightning's, anomalib's and ours.

Encoders get random weights, which take as long as trained ones. Several values of ``--precision`` train in turns.

    python -m benchmarks.performance.training_step [--preset laptop_pretrained] [--precision 32 bf16-mixed] [--markdown]
"""

import argparse
import statistics
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from functools import wraps
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import timm
import torch
import yaml
from anomalib.models import get_model
from lightning.pytorch import Callback

from anomalib_anoseg.common.presets import merge, read_preset
from anomalib_anoseg.data import DemoTextures
from anomalib_anoseg.training.reading_once import Served
from benchmarks.common import begin, by_group, clock, format_table, make_parser, write_json
from benchmarks.experiments.trainings import make_engine
from benchmarks.performance.pictures import make_folder

SERVING, FORGING, ENCODER, GUIDANCE = "serving of pictures that were read", "forging", "encoder", "guidance"
DECODER, LOSS, BACKWARD, OPTIMISER = "decoder", "loss", "backward", "optimiser"
AVERAGING, REST, VALIDATION = "averaging of weights", "all else", "the last validation, by the steps"
PARTS = (SERVING, FORGING, ENCODER, GUIDANCE, DECODER, LOSS, BACKWARD, OPTIMISER, AVERAGING)
ALL = (*PARTS, REST, VALIDATION)
TOTAL = "a step"
# Groups of settings with ImageNet weights, and the name of these.
PRE_TRAINED = {"encoder": "pre_trained", "extractor": "weights"}


class Stopwatch(Callback):
    """Charges processor time to the innermost part that is running, but all of a validation to the validation."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.running = [REST]
        self.since = clock()
        self.patches = ExitStack()

    def begin(self, part: str) -> None:
        """Enter a part."""
        self._charge()
        outer = self.running[-1]
        self.running.append(outer if outer == VALIDATION else part)

    def end(self) -> None:
        """Leave it."""
        self._charge()
        self.running.pop()

    def _charge(self) -> None:
        now = clock()
        self.seconds[self.running[-1]] += now - self.since
        self.since = now

    def watch(self, holder: Any, name: str, part: str) -> None:  # noqa: ANN401
        """Charge the calls of a method of an object, or of all objects of a class, to a part, until :meth:`close`."""
        function: Any = getattr(holder, name)

        @wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            self.begin(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.end()

        self.patches.enter_context(patch.object(holder, name, watched))

    def on_train_start(self, *_: object) -> None:
        """Forget what came before the first step, such as references and the check of pictures."""
        self._charge()
        self.seconds.clear()

    def on_validation_start(self, *_: object) -> None:
        """Charge the validation, its calibration included."""
        self.begin(VALIDATION)

    def on_validation_end(self, *_: object) -> None:
        """Return to the training."""
        self.end()

    def on_train_end(self, *_: object) -> None:
        """Charge the last part."""
        self._charge()


def watch_parts(watch: Stopwatch, module: Any) -> None:  # noqa: ANN401
    """Charge the functions of a model of ours, and of what it uses, to their parts."""
    networks = module.model
    watch.watch(Served, "__call__", SERVING)
    watch.watch(module.augmenter, "forge", FORGING)
    watch.watch(module.loss, "forward", LOSS)
    watch.watch(torch.Tensor, "backward", BACKWARD)
    watch.watch(torch.optim.Adam, "step", OPTIMISER)
    watch.watch(networks, "update_average", AVERAGING)
    watch.watch(networks, "prepare_for_evaluation", VALIDATION)  # statistics of averaged weights
    segmenter = getattr(networks, "segmenter", networks)  # SGSF's networks are all in one module
    for name, part in {"encoder": ENCODER, "decoder": DECODER, "extractor": GUIDANCE}.items():
        if getattr(segmenter, name, None) is not None:
            watch.watch(getattr(segmenter, name), "forward", part)
    if hasattr(networks, "guide"):
        watch.watch(networks, "guide", GUIDANCE)


def make_data(options: argparse.Namespace) -> Any:  # noqa: ANN401
    """Read the pictures of a folder, or draw the demonstration data."""
    if options.folder:
        return make_folder(options.folder, batch=options.batch)
    return DemoTextures(train_batch_size=options.batch)


def train(options: argparse.Namespace, precision: str, folder: Path) -> dict[str, float]:
    """Train for some steps and validate once; return the milliseconds of each part, divided by the steps."""
    configuration: dict[str, Any] = read_preset(options.preset)["model"]
    given = {name: yaml.safe_load(value) for name, value in (change.split("=", 1) for change in options.set)}
    arguments = merge(configuration["init_args"], by_group(given))
    for group, setting in PRE_TRAINED.items():
        if arguments.get(group, {}).get(setting):
            arguments[group][setting] = str(folder / "weights.pth")
    module: Any = get_model({**configuration, "init_args": arguments})
    stopwatch = Stopwatch()
    watch_parts(stopwatch, module)
    once = {"max_epochs": -1, "max_steps": options.steps, "check_val_every_n_epoch": None, "val_check_interval": 10**9}
    engine = make_engine(folder, precision=precision, callbacks=[stopwatch], **once)
    with stopwatch.patches:
        engine.fit(module, datamodule=make_data(options))
    return {part: 1e3 * seconds / options.steps for part, seconds in stopwatch.seconds.items()}


def tabulate(samples: dict[str, list[dict[str, float]]]) -> list[list[str]]:
    """Tabulate the medians of the rounds: a row a part, and for each precision its milliseconds and its share."""
    medians = {
        precision: {part: statistics.median(taken.get(part, 0.0) for taken in rounds) for part in ALL}
        for precision, rounds in samples.items()
    }
    lines = [["part", *(f"{head}, {precision}" for precision in samples for head in ("ms a step", "%"))]]
    for part in (*ALL, TOTAL):
        line = [part]
        for median in medians.values():
            total = sum(median[name] for name in ALL if name != VALIDATION)
            value = total if part == TOTAL else median[part]
            line += [f"{value:.1f}", "" if part == VALIDATION else f"{100 * value / total:.0f}"]
        lines.append(line)
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Print a table of parts."""
    parser = make_parser(__doc__, "threads", "seed", "markdown")
    parser.add_argument("--preset", default="laptop_pretrained")
    parser.add_argument("--set", nargs="*", default=[], metavar="GROUP.SETTING=VALUE", help="changes to the preset")
    parser.add_argument("--precision", nargs="+", default=["32"], help="of Lightning's trainer, in turns")
    parser.add_argument("--folder", type=Path, help="good pictures (default: the demonstration data)")
    parser.add_argument("--batch", type=int, default=32, help="pictures a step (default: 32)")
    parser.add_argument("--steps", type=int, default=12, help="steps of a training (default: 12)")
    parser.add_argument("--rounds", type=int, default=3, help="trainings with each precision (default: 3)")
    options = parser.parse_args(arguments)
    begin(options)
    samples: dict[str, list[dict[str, float]]] = {precision: [] for precision in options.precision}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), Path(folder, "weights.pth"))
        for _, precision in product(range(options.rounds), options.precision):
            samples[precision].append(train(options, precision, Path(folder)))
    print(format_table(tabulate(samples), markdown=options.markdown))
    write_json(options, milliseconds=samples)


if __name__ == "__main__":
    main()
