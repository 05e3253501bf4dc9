"""Files that are written completely or not at all, and folders that travel."""

import io
import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from platform import node
from typing import Any
from zipfile import ZipFile

# Hidden folders beside the targets, named after the machine and the process that write in them.
PART = ".part"
# After this many seconds a part is taken for a killed process's, if the process cannot be asked.
FORGOTTEN = 3600.0
UNCHANGED = "what was there before is unchanged"


@contextmanager
def written_whole(path: Path) -> Generator[Path, None, None]:
    """Give a place to write a file or a folder, which then takes the place of ``path`` at once, or not at all.

    The place is in a hidden folder beside ``path``, or in it if it is a folder already. An error, a full disk or a kill
    leaves what was there before. Files that are written beside the place are companions and move together with it.
    Meanwhile ``path`` is absent, so that it never stands beside companions of another version; a kill at that moment
    leaves it absent. Leftovers of killed processes are removed.

    Args:
        path: A file, or a folder, to which entries are added if it exists. Its parents are made; of a link, the target
            is replaced.

    Yields:
        The place, of the same name, in a folder of its own.

    Raises:
        OSError: If the place cannot be written to; the message names ``path``.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with written_whole(Path(folder) / "new" / "file.txt") as place:
        ...         _ = place.write_text("whole")
        ...     (Path(folder) / "new" / "file.txt").read_text(), len(list((Path(folder) / "new").iterdir()))
        ('whole', 1)
    """
    target = Path(path).resolve()
    folder = target if target.is_dir() else target.parent
    # Not tempfile's, whose permissions on Windows go with the files to their place.
    part = folder / f"{PART}-{node()}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        remove_leftovers(folder)
        part.mkdir(parents=True)
        yield part / target.name
        _publish(part, target)
    except OSError as error:
        place = Path(str(error.filename or part))
        if error.errno is None or not (place.is_relative_to(part) or part.is_relative_to(place)):
            raise
        raise OSError(error.errno, f"{error.strerror or error}; {UNCHANGED}", str(path)) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _publish(part: Path, target: Path) -> None:
    """Move what is in ``part`` to its place, once all of it is on the disk."""
    for file in part.rglob("*"):
        if file.is_file():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
    if target.is_dir():  # it may be a mount point, which cannot be replaced
        source, names = part / target.name, [entry.name for entry in (part / target.name).iterdir()]
    else:
        source, names = part, [*(file.name for file in part.iterdir() if file.name != target.name), target.name]
    _move_together(names, source, part.parent, part / ".old")
    if os.name == "posix":
        with suppress(OSError):  # some network file systems refuse it
            folder = os.open(part.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _move_together(names: list[str], source: Path, folder: Path, old: Path) -> None:
    """Move files, of which the last is the first to go and the last to come, or none.

    Raises:
        OSError: If one cannot be moved; the message names it.
    """
    replaced = [name for name in reversed(names) if names[1:] and (folder / name).is_file()]  # one file goes at once
    moves = [(folder / name, old / name) for name in replaced] + [(source / name, folder / name) for name in names]
    old.mkdir()
    done = 0
    try:
        for start, end in moves:
            start.replace(end)
            done += 1
    except OSError as error:
        for start, end in reversed(moves[:done]):
            end.replace(start)
        named = str(folder / moves[done][0].name)
        raise OSError(error.errno, f"{error.strerror}; {UNCHANGED}", named) from error


def remove_leftovers(folder: Path) -> None:
    """Remove a folder's parts whose process has ended.

    Processes of other machines, and on Windows, cannot be asked: their parts are removed when they are an hour old.
    """
    for part in folder.glob(f"{PART}-*-*-*"):
        machine, process, _ = part.name.rsplit("-", 2)  # from the right: names of machines may have dashes
        with suppress(FileNotFoundError):  # another process may remove it at the same time
            if os.name == "posix" and machine == f"{PART}-{node()}" and process.isdecimal():
                is_left = not _is_running(int(process))
            else:
                is_left = time.time() - part.stat().st_mtime > FORGOTTEN
            if is_left:
                shutil.rmtree(part, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write files that belong together: if one of them cannot be written, all stay as they are.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_texts({Path(folder) / "new" / name: name for name in ("a.csv", "b.md")})
        ...     sorted(path.name for path in (Path(folder) / "new").iterdir())
        ['a.csv', 'b.md']
    """
    with ExitStack() as written:
        for path, text in texts.items():
            with written.enter_context(written_whole(path)).open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())  # some systems notice only now that the disk is full


def write_json(path: Path, content: Any) -> None:  # noqa: ANN401
    r"""Write JSON completely or not at all; numbers that are not finite become null.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_json(Path(folder) / "new" / "file.json", {"a": float("nan")})
        ...     (Path(folder) / "new" / "file.json").read_text()
        '{\n  "a": null\n}\n'
    """
    text = json.dumps(without_nan(content), indent=2, allow_nan=False, default=str, ensure_ascii=False)
    write_texts({path: text + "\n"})


def pack(folder: Path) -> bytes:
    """Pack the files of a folder into an archive, uncompressed.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_texts({Path(folder) / "here" / "a" / "b.txt": "whole"})
        ...     unpack(pack(Path(folder) / "here"), Path(folder) / "there")
        ...     (Path(folder) / "there" / "a" / "b.txt").read_text()
        'whole'
    """
    packed = io.BytesIO()
    with ZipFile(packed, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return packed.getvalue()


def unpack(packed: bytes, folder: Path) -> None:
    """Write the files of an archive into a folder, which is made, and never out of it."""
    with ZipFile(io.BytesIO(packed)) as archive:
        archive.extractall(folder)


def inside(folder: Path, base: Path, path: Any) -> Path | None:  # noqa: ANN401
    """Resolve a path that someone else wrote, relative to ``base``; ``None`` if it leads out of the folder.

    Example:
        >>> inside(Path("runs"), Path("runs/jobs"), "../board.json") == Path("runs/board.json").resolve()
        True
        >>> inside(Path("runs"), Path("runs/jobs"), "/etc/hostname")
    """
    try:
        resolved = (base / path).resolve()
    except (TypeError, ValueError, OSError, RuntimeError):  # no text, no path, or links in a circle
        return None
    return resolved if resolved.is_relative_to(folder.resolve()) else None


def without_nan(content: Any) -> Any:  # noqa: ANN401
    """Replace numbers that are not finite, at any depth, by ``None``.

    Example:
        >>> without_nan({"a": [float("nan"), 1.0]})
        {'a': [None, 1.0]}
    """
    if isinstance(content, Mapping):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
