"""The command ``anomalib-anoseg``: everything around training, which is done by anomalib's own command.

Each subcommand is one public function; its signature and docstring are the command line. A function is imported when
its subcommand is called, so that ``anomalib-anoseg --help`` needs neither torch nor anomalib.
"""

import errno
import gc
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_origin, get_type_hints

from anomalib_anoseg.cli import inspect
from anomalib_anoseg.common.messages import one_line

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

# What each subcommand does, in a line, and where its function is.
COMMANDS = {
    "config": ("List the presets, or print the path of one.", "cli.config", "config"),
    "board": ("Train and test a grid of models.", "board.run.board", "run_board"),
    "cost": ("Measure what the models of a board cost to run.", "board.measure.cost", "measure_cost"),
    "report": ("Write the report of one or more boards.", "board.report.report", "write_report"),
    "inspect": ("Judge pictures by an exported file, without torch.", "cli.inspect", "inspect"),
    "preview": ("Show anomalies forged on your images.", "cli.preview", "preview"),
    "doctor": ("Show what is installed, and compare runtimes.", "cli.doctor", "doctor"),
}
# Arguments that are given without their names.
POSITIONAL = {"runs", "name"}
# What to do about errors of the system; what was there before is still whole.
REMEDIES = {
    errno.ENOSPC: "Free some space on the disk and run the command again.",
    errno.EDQUOT: "Free some of your space on the disk and run the command again.",
    errno.EROFS: "Name a place that can be written.",
    errno.EACCES: "Change its permissions, or name another place.",
    errno.EPERM: "Change its permissions, or name another place.",
}
RESUMED = {"board", "cost", "inspect"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The words after the command's name; those of the process if ``None``.

    Raises:
        SystemExit: With 0 if all went well, 1 if a board is incomplete, the doctor found a problem or an inspection an
            anomalous picture, 2 if an argument or a file is wrong, 3 if an inspection could not judge a picture, 130
            after Ctrl-C.
    """  # noqa: DOC502
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    try:
        result = _inspect(arguments[1:]) if arguments[:1] == ["inspect"] else _run(arguments, chosen)
    except KeyboardInterrupt:
        more = " What is finished is kept; run the same command again to go on." if chosen in RESUMED else ""
        print(f"\nInterrupted.{more}", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    if chosen == "inspect":
        sys.exit(inspect.status_of(result))
    # A board returns what is missing, the doctor what is wrong.
    sys.exit(1 if chosen in {"board", "doctor"} and result else 0)


def _inspect(arguments: Sequence[str]) -> Any:  # noqa: ANN401
    """Run the subcommand that needs nothing but the standard library for its arguments."""
    parser = inspect.make_parser()
    given = vars(parser.parse_args(arguments))
    try:
        return _call(inspect.inspect, given, lambda line: parser.exit(2, f"{parser.prog}: error: {line}\n"))
    except Exception:  # noqa: BLE001 - 1 would say that all were judged
        traceback.print_exc()
        sys.exit(2)


def _run(arguments: Sequence[str], chosen: str | None) -> Any:  # noqa: ANN401
    """Parse the arguments, and return what the chosen subcommand returns; the user's errors become a line."""
    try:
        from jsonargparse import ArgumentParser  # noqa: PLC0415
    except ModuleNotFoundError:
        inspect.make_parser().exit(
            2,
            "Only `anomalib-anoseg inspect` works here, because jsonargparse is not installed. "
            "`pip install anomalib-anoseg` brings all that the other commands need.\n",
        )
    parser = ArgumentParser(prog="anomalib-anoseg", description="Commands around training with anomalib.")
    parser.add_argument("--version", action="version", version=_version())
    subcommands = parser.add_subcommands()
    for name, (summary, module, function) in COMMANDS.items():
        subparser = ArgumentParser(description=summary)
        if name == chosen:
            _add_function(subparser, _load(module, function))
        subcommands.add_subcommand(name, subparser, help=summary)
    parsed = parser.parse_args(arguments)
    name = parsed.subcommand
    _, module, function = COMMANDS[name]
    call = _load(module, function)
    try:
        given = parser.instantiate_classes(parsed)[name].as_dict()
    except Exception as error:  # noqa: BLE001 - every class refuses its arguments in its own way
        parser.error(_refusal(error))
    known = signature(call).parameters
    return _call(call, {key: value for key, value in given.items() if key in known}, parser.error)


def _call(call: Callable[..., Any], arguments: dict[str, Any], refuse: Callable[[str], NoReturn]) -> Any:  # noqa: ANN401
    """Call a subcommand's function; what is the user's to mend becomes a line."""  # noqa: DOC501
    try:
        return call(**arguments)
    except (OSError, ModuleNotFoundError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            file = "" if error.filename is None else f"{error.filename}: "
            refuse(f"{file}{error.strerror}. {REMEDIES.get(error.errno, '')}")
        if not _raised_by_this_package(error):
            raise
        refuse(str(error))


def _refusal(error: Exception) -> str:
    """Say in a line why a class refused its arguments.

    If the argument may also be ``None``, jsonargparse keeps the class's own words only in a list within its message.
    """
    listed = re.search(r"\nErrors:\n(.*?)\nGiven value type", str(error), re.DOTALL)
    reasons = re.split(r"(?:^|\n) *- ", listed[1]) if listed else []
    own = str(error) if _raised_by_this_package(error) else error
    return one_line(" ".join(reason for reason in reasons if reason and "NoneType" not in reason) or own, 600)


def _add_function(parser: "ArgumentParser", function: Callable[..., Any]) -> None:
    """Add a function's arguments to a parser."""
    from jsonargparse import ActionConfigFile  # noqa: PLC0415

    positional = [name for name in signature(function).parameters if name in POSITIONAL]
    for name in positional:
        hint = get_type_hints(function)[name]
        if get_origin(hint) in {list, Sequence}:
            parser.add_argument(name, nargs="+", type=Path)
        elif signature(function).parameters[name].default is None:
            parser.add_argument(name, nargs="?")
        else:
            parser.add_argument(name, type=hint)
    if "config" not in signature(function).parameters:
        parser.add_argument("-c", "--config", action=ActionConfigFile, help="YAML file with any of these arguments.")
    # With sub_configs `--data FILE.yaml` reads a data module's file, as in anomalib's own command.
    parser.add_function_arguments(function, skip=set(positional), fail_untyped=True, sub_configs=True)


def _load(module: str, function: str) -> Callable[..., Any]:
    """Import a subcommand's function; what imports leave stays to the end, and is not searched for garbage."""
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # anomalib's own warnings do not concern the user
            return getattr(import_module(f"anomalib_anoseg.{module}"), function)
    finally:
        gc.freeze()
        gc.enable()


def _raised_by_this_package(error: BaseException) -> bool:
    """Check that this package raised an error, with a message for the user, and not a library that it calls."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and str(frames[-1].f_globals.get("__name__")).startswith("anomalib_anoseg.")


def _version() -> str:
    from anomalib_anoseg import __version__  # noqa: PLC0415

    return f"anomalib-anoseg {__version__}"
