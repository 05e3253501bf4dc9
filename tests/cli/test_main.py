"""The command `anomalib-anoseg`."""

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from anomalib_anoseg.cli import main as cli


@pytest.fixture
def offer(monkeypatch):
    """Put functions of the test's in place of the real ones."""

    def offer(**functions):
        offered = {name: ("A line.", name, name) for name in functions}
        monkeypatch.setattr(cli, "COMMANDS", offered)
        monkeypatch.setattr(cli, "import_module", lambda _: SimpleNamespace(**functions))

    return offer


def status(*arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    return stopped.value.code


def test_help_is_quick_because_it_loads_nothing():
    code = (
        "import sys\nfrom anomalib_anoseg.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'anomalib', 'matplotlib', 'pandas') if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == "[]"
    assert "board" in process.stdout


def test_imports_of_a_subcommand_are_not_searched_for_garbage():
    code = (
        "import gc\nfrom anomalib_anoseg.cli.main import main\n"
        "try: main(['config', '--help'])\nexcept SystemExit: print(gc.isenabled(), gc.get_freeze_count() > 1000)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == "True True"


def test_module_is_the_command():
    process = subprocess.run(
        [sys.executable, "-m", "anomalib_anoseg", "--version"], capture_output=True, text=True, check=True
    )
    assert process.stdout.startswith("anomalib-anoseg 0")


def test_help_names_every_command(capsys):
    assert status("--help") == 0
    printed = capsys.readouterr().out
    assert all(summary in printed for summary, _, _ in cli.COMMANDS.values())


@pytest.mark.parametrize(("missing", "code"), [([], 0), (["a"], 1)])
def test_board_that_lacks_rows_exits_with_1(missing, code, offer):
    def board(config: Path, out: Path, save_every: float = 60.0) -> list[str]:
        """Run.

        Args:
            config: A file.
            out: A folder.
            save_every: Seconds.
        """
        assert (str(config), str(out), save_every) == ("a.yaml", "runs", 2.0)
        return missing

    offer(board=board)
    assert status("board", "--config", "a.yaml", "--out", "runs", "--save_every", "2") == code


def test_report_takes_folders_without_a_name(offer):
    found = []

    def report(runs: list[Path], out: Path) -> Path:
        """Write.

        Args:
            runs: Folders.
            out: Folder.
        """
        found.extend([*runs, out])
        return out

    offer(report=report)
    assert status("report", "a", "b", "--out", "c") == 0
    assert found == [Path("a"), Path("b"), Path("c")]


def test_report_says_where_its_page_is(offer, capsys):
    def report(runs: list[Path]) -> Path:
        """Write.

        Args:
            runs: Folders.
        """
        return runs[0] / "page.html"

    offer(report=report)
    assert status("report", "a") == 0
    assert capsys.readouterr().out == f"Look at {Path('a', 'page.html')}\n"


def test_help_describes_arguments_without_a_name(offer, capsys):
    def report(runs: list[Path]) -> None:
        """Write.

        Args:
            runs: Folders of boards.
        """

    offer(report=report)
    assert status("report", "--help") == 0
    assert "Folders of boards." in capsys.readouterr().out


def test_cost_takes_one_folder(offer):
    found = []

    def cost(runs: Path, rounds: int = 3) -> None:
        """Measure.

        Args:
            runs: Folder.
            rounds: Number.
        """
        found.append((runs, rounds))

    offer(cost=cost)
    assert status("cost", "a", "--rounds", "2") == 0
    assert found == [(Path("a"), 2)]


def test_wrong_argument_exits_with_2(offer, capsys):
    def board(config: Path) -> None:
        """Run.

        Args:
            config: A file.
        """

    offer(board=board)
    assert status("board") == 2
    assert "config" in capsys.readouterr().err
    assert status() == 2


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(28, "No space left on device", "runs/board.json"),
            "runs/board.json: No space left on device. Free some",
        ),
        (
            OSError(30, "Read-only file system", "runs"),
            "runs: Read-only file system. Name a place that can be written.",
        ),
        (PermissionError(13, "Permission denied"), "Permission denied. Change its permissions"),
        (
            NotADirectoryError(20, "Not a directory", "a.png/runs"),
            "a.png/runs: Not a directory. A folder in this path is a file: name another place.",
        ),
        (OSError(5, "Input/output error", "runs"), "runs: Input/output error. Name another place."),
    ],
)
def test_error_of_the_system_is_a_line_with_its_remedy(error, line, offer, capsys):
    def config() -> None:
        """Print."""
        raise error

    offer(config=config)
    assert status("config") == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"anomalib-anoseg config: error: {line}")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(("name", "resumes"), [("board", True), ("config", False)])
def test_ctrl_c_says_how_to_go_on(name, resumes, offer, capsys):
    def command() -> None:
        """Run."""
        raise KeyboardInterrupt

    offer(**{name: command})
    assert status(name) == 130
    printed = capsys.readouterr().err
    assert printed.startswith("\nInterrupted.")
    assert ("run the same command again to go on" in printed) == resumes


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.skipif(os.name != "posix", reason="Windows has no such pipes")
def test_reader_that_has_ended_causes_no_error(unbuffered):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "anomalib_anoseg", "config"]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    process = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(write)
    assert (process.returncode, process.stderr) == (141, b"")


def test_name_that_cannot_be_printed_ends_nothing(offer, monkeypatch):
    def config() -> None:
        """Print."""
        sys.stdout.write("Prüfteile\n")

    offer(config=config)
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, "ascii"))
    assert status("config") == 0
    assert printed.getvalue().split() == [b"Pr\\xfcfteile"]


def test_future_warnings_of_libraries_are_not_shown(offer):
    def config() -> None:
        """Print."""
        warnings.warn("moved", FutureWarning, stacklevel=1)

    offer(config=config)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        assert status("config") == 0
    assert not shown


def test_every_command_has_its_function():
    for name, (_, module, function) in cli.COMMANDS.items():
        assert callable(cli._load(module, function)), name


def test_error_of_the_user_is_one_line(tmp_path, capsys):
    assert status("board", "--config", str(tmp_path / "nowhere.yaml"), "--out", str(tmp_path)) == 2
    error = capsys.readouterr().err
    assert "config: There is no file" in error
    assert "Traceback" not in error


def test_setting_that_a_model_refuses_is_a_line(tmp_path, capsys):
    assert status("preview", "--model=AnoSeg", "--model.patches.count=0", f"--images={tmp_path}") == 2
    error = capsys.readouterr().err
    assert error == "anomalib-anoseg preview: error: patches.count must lie within [1, 100], got 0.\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--model=Anoseg"], "model: 'Anoseg' is neither a known class nor a YAML file that there is."),
        (["--data=nowhere.yaml"], "data: 'nowhere.yaml' is neither a known class nor a YAML file that there is."),
        (["--number=few"], "number: Expected a <class 'int'>. Got value: few."),
        (
            ["--model=AnoSeg", "--model.patches.cout=1"],
            "Problem with given class_path 'anomalib_anoseg.AnoSeg': Unrecognized arguments: --patches.cout=1.",
        ),
    ],
)
def test_argument_that_cannot_be_parsed_is_a_line(arguments, line, capsys):
    assert status("preview", *arguments) == 2
    assert capsys.readouterr().err == (
        f"anomalib-anoseg preview: error: {line} See `anomalib-anoseg preview --help`.\n"
    )


CONFIGS = Path(__file__).parents[2] / "configs"


def test_preview_takes_a_training_s_configuration(tiny_root, tmp_path, capsys):
    arguments = (
        "preview",
        f"--config={CONFIGS / 'laptop.yaml'}",
        "--model.image_size=[64,64]",
        "--model.network.width=0.125",
        f"--images={tiny_root / 'stripes' / 'train' / 'good'}",
        "--number=1",
        f"--out={tmp_path / 'out'}",
    )
    assert status(*arguments) == 0
    assert (tmp_path / "out" / "sheet.png").is_file()
    assert status(*arguments) == 2
    assert "is not an empty folder. Name another one, or remove it." in capsys.readouterr().err


def test_preview_takes_a_data_module_s_configuration(tiny_root, tmp_path):
    assert (
        status(
            "preview",
            "--model=AnoSeg",
            "--model.image_size=[64,64]",
            "--model.network.width=0.125",
            f"--data={CONFIGS / 'data' / 'folder_normal_only.yaml'}",
            f"--data.root={tiny_root / 'stripes' / 'train'}",
            "--data.normal_dir=good",
            "--data.val_split_ratio=0.25",
            "--number=1",
            f"--out={tmp_path / 'out'}",
        )
        == 0
    )
    assert (tmp_path / "out" / "sheet.png").is_file()
