"""Files that are written completely or not at all."""

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from platform import node
from typing import Any

# Hidden folders beside the targets, named after the machine and the process that write in them.
PART = ".part"
# After this many seconds a part belongs to no running process, whatever machine it runs on.
FORGOTTEN = 3600.0


@contextmanager
def written_whole(path: Path) -> Generator[Path, None, None]:
    """Give a place to write a file or a folder, which then takes the place of ``path`` at once, or not at all.

    The place is in a hidden folder beside ``path``, or in it if it is a folder already, so a
    kill, an error or a full disk leaves what was there before.
    Other files that are written beside the place go where ``path`` is, too; the old ``path`` is removed before they
    change, so that it never stands beside companions of another version. Leftovers of killed processes are removed.

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
    folder, part = target if target.is_dir() else target.parent, None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        part = Path(tempfile.mkdtemp(prefix=f"{PART}-{node()}-{os.getpid()}-", dir=folder))
        yield part / target.name
        _publish(part, target)
    except OSError as error:
        is_about_path = error.filename is None or part is None or Path(str(error.filename)).is_relative_to(part)
        if error.errno is None or not is_about_path:
            raise
        reason = f"{error.strerror or error}; what was there before is unchanged"
        raise OSError(error.errno, reason, str(path)) from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def _publish(part: Path, target: Path) -> None:
    """Move what is in ``part`` to its place, once all of it is on the disk."""
    for file in part.rglob("*"):
        if file.is_file():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
    if target.is_dir():  # it may be a mount point, which cannot be replaced
        for entry in (part / target.name).iterdir():
            entry.replace(target / entry.name)
    else:
        companions = [file for file in part.iterdir() if file.name != target.name]
        if companions:
            target.unlink(missing_ok=True)
        for companion in companions:
            companion.replace(target.with_name(companion.name))
        (part / target.name).replace(target)
    if os.name == "posix":
        folder = os.open(part.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove a folder's parts whose process has ended; those of other machines, and on Windows, after an hour."""
    for part in folder.glob(f"{PART}-*"):
        process = part.name.removeprefix(f"{PART}-{node()}-").partition("-")[0]
        ended = os.name == "posix" and process.isdecimal() and not _is_running(int(process))
        with suppress(FileNotFoundError):  # another process may remove it at the same time
            if ended or time.time() - part.stat().st_mtime > FORGOTTEN:
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
    text = json.dumps(_finite(content), indent=2, allow_nan=False, default=str, ensure_ascii=False)
    write_texts({path: text + "\n"})


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


def _finite(content: Any) -> Any:  # noqa: ANN401
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
