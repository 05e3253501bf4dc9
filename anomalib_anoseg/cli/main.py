"""The command ``anomalib-anoseg``: everything around training, which is done by anomalib's own command.

Each subcommand is one public function; its signature and docstring are the command line. A function is imported when
its subcommand is called, so that ``anomalib-anoseg --help`` needs neither torch nor anomalib.
"""

import errno
import gc
import io
import os
import re
import sys
import traceback
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from inspect import getdoc, signature
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
PROGRAM = "anomalib-anoseg"
# Arguments that are given without their names.
POSITIONAL = {"runs", "name"}
# What to do about errors of the system; what was there before is still whole.
REMEDIES = {
    errno.ENOSPC: "Free some space on the disk and run the command again.",
    errno.EDQUOT: "Free some of your space on the disk and run the command again.",
    errno.EROFS: "Name a place that can be written.",
    errno.EACCES: "Change its permissions, or name another place.",
    errno.EPERM: "Change its permissions, or name another place.",
    errno.EEXIST: "It is a file: name a folder.",
    errno.ENOTDIR: "A folder in this path is a file: name another place.",
    errno.ENOENT: "Check its spelling.",
}
OTHER_REMEDY = "Name another place."
RESUMED = {"board", "cost", "inspect"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The words after the command's name; those of the process if ``None``.

    Raises:
        SystemExit: With 0 if all went well, 1 if a board is incomplete, the doctor found a problem or an inspection an
            anomalous picture, 2 if an argument or a file is wrong, 3 if an inspection could not judge a picture, 130
            after Ctrl-C, 141 if what reads the output has ended, such as ``head``.
    """  # noqa: DOC502
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    with _printing():
        sys.exit(_status(arguments, chosen))


def _status(arguments: Sequence[str], chosen: str | None) -> int:
    """Run the command and choose its exit status."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # anomalib's own do not concern the user
            result = _inspect(arguments[1:]) if arguments[:1] == ["inspect"] else _run(arguments, chosen)
    except KeyboardInterrupt:
        more = " What is finished is kept; run the same command again to go on." if chosen in RESUMED else ""
        print(f"\nInterrupted.{more}", file=sys.stderr)  # noqa: T201
        return 130
    if chosen == "inspect":
        return inspect.status_of(result)
    if chosen == "report":
        print(f"Look at {result}")  # noqa: T201
    # A board returns what is missing, the doctor what is wrong.
    return 1 if chosen in {"board", "doctor"} and result else 0


@contextmanager
def _printing() -> Generator[None]:
    """Let neither a name that cannot be printed nor a reader that has ended, such as ``head``, cause an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":  # a closed one is None
            stream.reconfigure(errors="backslashreplace")
    try:
        with ExitStack() as ending:
            if sys.stdout is not None:
                ending.callback(sys.stdout.flush)
            yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left would fail again at the exit
        sys.exit(141)


def _inspect(arguments: Sequence[str]) -> Any:  # noqa: ANN401
    """Run the subcommand that needs nothing but the standard library for its arguments."""  # noqa: DOC501
    parser = inspect.make_parser()
    given = vars(parser.parse_args(arguments))
    try:
        return _call(inspect.inspect, given, "inspect")
    except BrokenPipeError:
        raise
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
    # Otherwise it prints its errors itself, in many lines.
    parser = ArgumentParser(prog=PROGRAM, description="Commands around training with anomalib.", exit_on_error=False)
    parser.add_argument("--version", action="version", version=_version())
    subcommands = parser.add_subcommands()
    for name, (summary, module, function) in COMMANDS.items():
        subparser = ArgumentParser(description=summary, exit_on_error=False)
        if name == chosen:
            _add_function(subparser, _load(module, function))
        subcommands.add_subcommand(name, subparser, help=summary)
    try:
        parsed = parser.parse_args(arguments)
    except ArgumentError as error:
        name = chosen if chosen in COMMANDS else ""
        _refuse(name, f"{_refusal(error).rstrip('.')}. See `{f'{PROGRAM} {name}'.rstrip()} --help`.")
    name = parsed.subcommand
    _, module, function = COMMANDS[name]
    call = _load(module, function)
    try:
        given = parser.instantiate_classes(parsed)[name].as_dict()
    except Exception as error:  # noqa: BLE001 - every class refuses its arguments in its own way
        _refuse(name, _refusal(error))
    known = signature(call).parameters
    return _call(call, {key: value for key, value in given.items() if key in known}, name)


def _call(call: Callable[..., Any], arguments: dict[str, Any], name: str) -> Any:  # noqa: ANN401
    """Call a subcommand's function; what is the user's to mend becomes a line."""  # noqa: DOC501
    try:
        return call(**arguments)
    except BrokenPipeError:
        raise
    except (OSError, ModuleNotFoundError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            file = "" if error.filename is None else f"{error.filename}: "
            _refuse(name, f"{file}{error.strerror}. {REMEDIES.get(error.errno, OTHER_REMEDY)}")
        if not _raised_by_this_package(error):
            raise
        _refuse(name, str(error))


def _refuse(name: str, line: str) -> NoReturn:
    """End a subcommand with a line."""
    print(f"{PROGRAM} {name}".rstrip() + f": error: {line}", file=sys.stderr)  # noqa: T201
    sys.exit(2)


def _refusal(error: Exception) -> str:
    """Say in a line why arguments were refused.

    If the argument may also be ``None``, jsonargparse keeps a class's own words only in a list within its message.
    """
    text = re.sub(r'^Parser key "([^"]*)":', r"\1:", str(error))
    unknown = re.search(r"Expected a path but (.*) either not accessible or invalid\n", text)
    if unknown and re.search(r"Expected a dot import path|\n +No module named", text):
        return f"{text.partition(':')[0]}: {unknown[1]!r} is neither a known class nor a YAML file that there is."
    listed = re.search(r"\n *Errors:\n(.*?)\n *Given value type", text, re.DOTALL)
    reasons = re.split(r"(?:^|\n) *- ", listed[1]) if listed else []
    own = text if isinstance(error, ArgumentError) or _raised_by_this_package(error) else error
    return one_line(" ".join(reason for reason in reasons if reason and "NoneType" not in reason) or own, 600)


def _add_function(parser: "ArgumentParser", function: Callable[..., Any]) -> None:
    """Add a function's arguments to a parser."""
    from docstring_parser import parse  # noqa: PLC0415 - jsonargparse reads docstrings by it, too
    from jsonargparse import ActionConfigFile  # noqa: PLC0415

    positional = [name for name in signature(function).parameters if name in POSITIONAL]
    described = {entry.arg_name: entry.description for entry in parse(getdoc(function) or "").params}
    for name in positional:
        hint = get_type_hints(function)[name]
        options: dict[str, Any] = {"type": hint}
        if get_origin(hint) in {list, Sequence}:
            options = {"type": Path, "nargs": "+"}
        elif signature(function).parameters[name].default is None:
            options = {"nargs": "?"}
        parser.add_argument(name, help=described.get(name), **options)
    if "config" not in signature(function).parameters:
        parser.add_argument("-c", "--config", action=ActionConfigFile, help="YAML file with any of these arguments.")
    # With sub_configs `--data FILE.yaml` reads a data module's file, as in anomalib's own command.
    parser.add_function_arguments(function, skip=set(positional), fail_untyped=True, sub_configs=True)


def _load(module: str, function: str) -> Callable[..., Any]:
    """Import a subcommand's function; what imports leave stays to the end, and is not searched for garbage."""
    gc.disable()
    try:
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

    return f"{PROGRAM} {__version__}"
