"""The results of an inspection, a line of JSON each, which are its memory over a restart."""

from __future__ import annotations

import csv
import json
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import blake2b
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from anomalib_anoseg.common.files import write_json, written_whole
from anomalib_anoseg.common.messages import one_line
from anomalib_anoseg.deploy.inspection.shots import ORIGIN, Key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Journal", "Tally"]

RESULTS, TABLE = "results.jsonl", "results.csv"
COLUMNS = ("path", "label", "score", "threshold", "regions", "anomalous_pixels", "largest_box", "time", "error")


@dataclass
class Tally:
    """Count pictures by verdict.

    Attributes:
        normal: Number of normal pictures.
        anomalous: Number of anomalous pictures.
        unreadable: Paths of pictures that could not be judged so far.
    """

    normal: int = 0
    anomalous: int = 0
    unreadable: set[str] = field(default_factory=set)

    def add(self, result: dict[str, Any]) -> None:
        """Count a picture."""
        if "error" in result:
            self.unreadable.add(result["path"])
            return
        self.unreadable.discard(result["path"])
        self.anomalous += result["label"] == "anomalous"
        self.normal += result["label"] != "anomalous"

    def __str__(self) -> str:
        """Say it in words."""
        return f"{self.normal} normal, {self.anomalous} anomalous, {len(self.unreadable)} unreadable"


class Journal:
    """Appends results to a file, and knows which pictures are in it.

    It holds about a hundred bytes a picture in memory, and the results on the disk alone. A line that a kill left
    unfinished is removed at the next start, and a picture that could not be judged is tried again. A second process is
    kept out, but on drives that know no locks. The system ends a lock with its process, however that ends.

    Args:
        folder (Path): Where the results are, or go.
        origin (dict[str, Any]): What all of them have in common; a folder whose results have another origin is refused.

    Raises:
        ValueError: If there are results of another origin, another process writes here, or a line is no result.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> key = Key("/a.png", 10, 7)
        >>> with Journal(Path(mkdtemp()), {"digest": "sha256:0"}) as journal:
        ...     journal.append(key, {"label": "normal"})
        ...     key in journal, str(journal.tally)
        (True, '1 normal, 0 anomalous, 0 unreadable')
    """

    def __init__(self, folder: Path, origin: dict[str, Any]) -> None:
        self._folder, self.tally = folder, Tally()
        self._known: set[bytes] = set()
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / ".lock", timeout=0)
        with ExitStack() as opened:
            self._keep_others_out()
            opened.callback(self._lock.release)
            # A line is there as soon as it is written.
            self._file = opened.enter_context((folder / RESULTS).open("ab+", buffering=0))
            self._claim(origin)
            self._read()
            self._opened = opened.pop_all()

    def __contains__(self, key: Key) -> bool:
        """Tell whether a picture has a result."""
        return _digest(key) in self._known

    def append(self, key: Key, result: dict[str, Any]) -> None:
        """Write a result."""
        line = {"path": key.path, **result, "file": {"bytes": key.bytes, "modified_ns": key.modified_ns}}
        text = (json.dumps(line, ensure_ascii=False) + "\n").encode()
        while text:  # a full disk takes a part, then raises an error
            text = text[self._file.write(text) or 0 :]
        self._known.add(_digest(key))
        self.tally.add(line)

    def results(self) -> Iterator[dict[str, Any]]:
        """Read the results.

        Yields:
            dict[str, Any]: One after another.
        """
        with (self._folder / RESULTS).open(encoding="utf-8") as file:
            yield from (json.loads(line) for line in file if line.endswith("\n"))  # a full disk takes a part of one

    def write_table(self) -> Path:
        """Write the results as a CSV file."""
        path = self._folder / TABLE
        with written_whole(path) as place, place.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            table.writeheader()
            for result in self.results():
                regions = result.get("regions", [])
                largest = max(regions, key=itemgetter("area"), default={"box": ""})["box"]
                counted: dict[str, Any] = {} if "error" in result else {"regions": len(regions)}
                if regions:
                    counted |= {"anomalous_pixels": sum(region["area"] for region in regions)}
                    counted |= {"largest_box": " ".join(map(str, largest))}
                table.writerow(result | counted)
        return path

    def __enter__(self) -> Self:
        """Return the journal."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file, and let others in."""
        self._opened.close()

    def _keep_others_out(self) -> None:
        """Lock the folder.

        Raises:
            ValueError: If another process writes here.
            PermissionError: If this one may not.
        """
        try:
            self._lock.acquire()
        except Timeout:
            raise ValueError(
                f"--out: another inspection writes to {self._folder}. Stop it, or name another folder."
            ) from None
        except PermissionError:  # nothing can be written here either
            raise
        except (OSError, NotImplementedError) as error:
            problem = f"{self._folder} cannot be locked ({one_line(error)}). Let no other inspection write there."
            print(problem, file=sys.stderr)  # noqa: T201

    def _claim(self, origin: dict[str, Any]) -> None:
        """Let no result of another origin stand beside those that are here.

        Raises:
            ValueError: If one would.
        """
        path = self._folder / ORIGIN
        if self._file.tell() == 0:
            write_json(path, origin)
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            differing = [name for name in ("digest", "rate") if found[name] != origin[name]]
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(
                f"--out: {self._folder} has results, but no {ORIGIN} that says by which file. Name another folder."
            ) from None
        if "digest" in differing:
            raise ValueError(
                f"--out: {self._folder} has results of another file ({found.get('model')}). Name another folder for "
                f"those of {origin['model']}."
            )
        if differing:
            before = "no --rate" if found["rate"] is None else f"--rate {found['rate']:g}"
            raise ValueError(f"--out: {self._folder} has results with {before}. Use that, or name another folder.")

    def _read(self) -> None:
        """Note the results that are there, and cut off what is left of an unfinished one.

        Raises:
            ValueError: If a whole line is no result.
        """
        self._file.seek(0)
        end = 0
        with os.fdopen(os.dup(self._file.fileno()), "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    result = json.loads(line)
                    key = Key(result["path"], result["file"]["bytes"], result["file"]["modified_ns"])
                    self.tally.add(result)
                except (ValueError, KeyError, TypeError):
                    raise ValueError(
                        f"Line {number} of {self._folder / RESULTS} is no result of an inspection. Remove the line, or "
                        "name another folder with --out."
                    ) from None
                end += len(line)
                if "error" not in result:  # what could not be read may be readable now
                    self._known.add(_digest(key))
        self._file.truncate(end)


def _digest(key: Key) -> bytes:
    return blake2b(repr(tuple(key)).encode(), digest_size=16).digest()
