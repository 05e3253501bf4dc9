"""Results as COCO annotations, which FiftyOne and Label Studio read: people can look at them and correct them."""

from __future__ import annotations

import json
from itertools import starmap
from typing import TYPE_CHECKING, Any

from anomalib_anoseg.common.files import written_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["write_coco"]


def write_coco(path: Path, results: Callable[[], Iterator[dict[str, Any]]]) -> None:
    """Write each picture that was judged, and each of its regions as a box.

    Args:
        path: The file.
        results: Reads the lines of ``results.jsonl`` from the first one; called several times, and none is kept.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> region = {"box": [2, 1, 6, 3], "area": 4, "peak": 0.9}
        >>> line = {"path": "/a.png", "label": "anomalous", "score": 0.9, "size": [10, 8], "regions": [region]}
        >>> path = Path(mkdtemp()) / "coco.json"
        >>> write_coco(path, lambda: iter([line]))
        >>> json.loads(path.read_text())["annotations"][0]["bbox"]
        [2, 1, 4, 2]
    """
    with written_whole(path) as place, place.open("w", encoding="utf-8") as file:
        file.write('{"categories": [{"id": 1, "name": "anomalous"}],\n"images": [')
        _write_all(file, starmap(_picture, _judged(results)))
        file.write('],\n"annotations": [')
        regions = ((number, region) for number, result in _judged(results) for region in result.get("regions", []))
        _write_all(file, (_box(index, number, region) for index, (number, region) in enumerate(regions, 1)))
        file.write("]}\n")


def _judged(results: Callable[[], Iterator[dict[str, Any]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number the results; of a picture that was replaced under its name, the last one counts.

    Yields:
        tuple[int, dict[str, Any]]: The number of a line, and the line.
    """
    last = {result["path"]: number for number, result in enumerate(results(), 1)}
    for number, result in enumerate(results(), 1):
        if last[result["path"]] == number and "error" not in result:
            yield number, result


def _write_all(file: Any, entries: Iterator[dict[str, Any]]) -> None:  # noqa: ANN401 - a text file
    for number, entry in enumerate(entries):
        file.write((",\n" if number else "\n") + json.dumps(entry, ensure_ascii=False))


def _picture(number: int, result: dict[str, Any]) -> dict[str, Any]:
    width, height = result["size"]
    named = {name: result[name] for name in ("label", "score")}
    return {"id": number, "file_name": result["path"], "width": width, "height": height, **named}


def _box(index: int, number: int, region: dict[str, Any]) -> dict[str, Any]:
    left, top, right, bottom = region["box"]
    box = {"bbox": [left, top, right - left, bottom - top], "area": region["area"], "iscrowd": 0}
    return {"id": index, "image_id": number, "category_id": 1, **box, "score": region["peak"]}
