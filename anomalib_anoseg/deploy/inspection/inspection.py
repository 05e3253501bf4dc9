"""Judge pictures one after another, and write what was found."""

from __future__ import annotations

import sys
from contextlib import closing
from datetime import datetime, timezone
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from anomalib_anoseg.common.files import write_json
from anomalib_anoseg.common.messages import one_line
from anomalib_anoseg.deploy.inspection.coco import write_coco
from anomalib_anoseg.deploy.inspection.journal import RESULTS, Journal, Tally
from anomalib_anoseg.deploy.inspection.overlay import draw_overlay
from anomalib_anoseg.deploy.inspection.progress import Progress
from anomalib_anoseg.deploy.inspection.regions import find_regions
from anomalib_anoseg.deploy.inspection.session import Session
from anomalib_anoseg.deploy.inspection.shift import ShiftMonitor
from anomalib_anoseg.deploy.inspection.shots import DRAWN, Shot, key_of, list_pictures, take
from anomalib_anoseg.deploy.inspection.watch import follow, import_watchfiles

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

__all__ = ["OVERLAYS", "inspect_pictures"]

OVERLAYS = ("all", "anomalous", "none")
SUMMARY = "summary.json"
QUALITY, LARGEST_SIDE = 90, 65_500  # of JPEG
LONGEST_NAME = 50  # characters, of up to four bytes each


def inspect_pictures(
    model: Path,
    pictures: Sequence[Path],
    out: Path,
    rate: float | None = None,
    overlays: str = "anomalous",
    masks: bool = False,
    coco: bool = False,
    watch: bool = False,
) -> Tally:
    """Judge pictures by an exported file; those whose results are in the folder are not judged again.

    Args:
        model (Path): The file: ``.onnx``, or ``.xml`` of OpenVINO.
        pictures (Sequence[Path]): Files, or folders with pictures, also in folders within.
        out (Path): Folder for ``results.jsonl``, ``results.csv``, and the pictures ``overlays`` and ``masks``.
        rate (float | None): False alarm rate, one of those in the file's record; ``None`` for its own thresholds.
        overlays (str): For which pictures: ``"all"``, ``"anomalous"`` or ``"none"``.
        masks (bool): Whether to write a mask of each, in which white is anomalous.
        coco (bool): Whether to write ``coco.json`` at the end, with the regions as boxes.
        watch (bool): Whether to wait for more pictures in the folders, until Ctrl-C.

    Returns:
        Tally: Counts of all pictures that have results in the folder.

    Raises:
        ValueError: If an argument or the file cannot be used, or the folder has results of another file.
    """
    out = Path(out)
    folders = {name: out / name for name in DRAWN}
    if watch:
        if any(not path.is_dir() for path in pictures):
            raise ValueError("--watch follows folders. Name a folder that the camera writes to.")
        import_watchfiles()
    listed = None if watch else list_pictures(pictures, list(folders.values()))
    session = Session(model, rate)
    if session.decision.note:
        print(session.decision.note, file=sys.stderr)  # noqa: T201
    origin = {
        "model": str(Path(model).resolve()),
        "digest": session.digest,
        "rate": rate,
        "thresholds": {"image": session.decision.image, "pixel": session.decision.pixel},
    }
    with Journal(out, origin) as journal:
        monitor = ShiftMonitor(session.appearance, is_watching=watch)
        writer = _Writer(session, journal, monitor, folders, overlays, masks)
        progress = Progress(journal.tally, None if listed is None else len(listed))
        shots = (
            follow(pictures, list(folders.values()), journal.__contains__)
            if listed is None
            else _unknown(listed, journal, progress)
        )
        try:
            with closing(shots):
                for shot in shots:
                    writer.write(shot)
                    progress.advance()
        finally:
            progress.close()
            table = journal.write_table()
            if coco:
                write_coco(out / "coco.json", journal.results)
            monitor.compare()
            _summarize(out, journal.tally, progress.done, monitor)
            holds = "; no stated rate of false alarms holds, see the warning" if monitor.warning else ""
            print(f"{journal.tally}; {progress.done} judged now{holds}. {out / RESULTS}, {table.name}")  # noqa: T201
        return journal.tally


def _summarize(out: Path, tally: Tally, judged_now: int, monitor: ShiftMonitor) -> None:
    content = {
        "normal": tally.normal,
        "anomalous": tally.anomalous,
        "unreadable": len(tally.unreadable),
        "judged_now": judged_now,
        "unlike_held_out": monitor.unlike_held_out,
        "warning": monitor.warning or None,
    }
    write_json(out / SUMMARY, content)


def _unknown(paths: Sequence[Path], journal: Journal, progress: Progress) -> Generator[Shot]:
    """Read the pictures that have no results.

    Yields:
        Shot: Each of them.
    """
    for path in paths:
        if key_of(path) in journal:
            progress.advance(judged=False)
        else:
            yield take(path)


class _Writer:
    """Judges a picture, and writes its result once all that it names is written."""

    def __init__(
        self,
        session: Session,
        journal: Journal,
        monitor: ShiftMonitor,
        folders: dict[str, Path],
        overlays: str,
        masks: bool,
    ) -> None:
        self._session, self._journal, self._monitor, self._folders = session, journal, monitor, folders
        self._overlays, self._masks = overlays, masks
        for name, is_wanted in {"overlays": overlays != "none", "masks": masks}.items():
            if is_wanted:
                folders[name].mkdir(parents=True, exist_ok=True)

    def write(self, shot: Shot) -> None:
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        if shot.picture is None:
            self._journal.append(shot.key, {"error": shot.problem, "time": time})
            return
        picture, decision = shot.picture, self._session.decision
        try:
            judgement = self._session.judge(picture)
        except Exception as error:  # noqa: BLE001 - a runtime may fail in any way, and the line goes on
            problem = f"{shot.key.path} {error}" if isinstance(error, ValueError) else one_line(error)
            self._journal.append(shot.key, {"error": problem, "time": time})
            return
        result: dict[str, Any] = {
            "label": "anomalous" if judgement.is_anomalous else "normal",
            "score": judgement.score,
            "threshold": decision.image,
            "size": list(picture.size),
        }
        if judgement.mask is not None and judgement.full_map is not None:
            result["regions"] = find_regions(judgement.mask, judgement.full_map)
            if self._masks:
                result["mask"] = self._save(Image.fromarray(judgement.mask), shot, "masks")
        if self._overlays == "all" or (self._overlays == "anomalous" and judgement.is_anomalous):
            result["overlay"] = self._save(draw_overlay(picture, judgement, decision), shot, "overlays")
        self._journal.append(shot.key, result | {"time": time})
        self._monitor.add(picture)

    def _save(self, picture: Image.Image, shot: Shot, folder: str) -> str:
        """Save a picture under a name that no other picture's has; return its place in the folder of results."""
        mark = blake2b(repr(tuple(shot.key)).encode(), digest_size=5).hexdigest()
        ending = ".jpg" if folder == "overlays" and max(picture.size) <= LARGEST_SIDE else ".png"
        name = f"{Path(shot.key.path).stem[:LONGEST_NAME]}-{mark}{ending}"
        picture.save(self._folders[folder] / name, quality=QUALITY)
        return f"{folder}/{name}"
