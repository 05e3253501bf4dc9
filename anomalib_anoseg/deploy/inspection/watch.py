"""The pictures that a camera writes into a folder, each once it is whole."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalib_anoseg.deploy.inspection.shots import DRAWN, ORIGIN, Key, Shot, is_picture, key_of, pictures_within, take

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

__all__ = ["follow", "import_watchfiles"]

# In seconds. A file whose size and time of change stay the same for as long is taken for written.
SETTLED = 0.25
# If it cannot be read then, it may still be in the making, for as long.
PATIENCE = 10.0
# Network drives announce no changes, so all is listed this often, or less often if it takes more than a twentieth.
LISTED = 5.0
LISTING_SHARE = 20
TICK_MS = 100


def import_watchfiles() -> Any:  # noqa: ANN401 - an optional library
    """Import the library that announces changes.

    Raises:
        ModuleNotFoundError: If it is not installed.
    """
    try:
        import watchfiles  # noqa: PLC0415
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "--watch needs the library watchfiles; `pip install watchfiles` brings it", name="watchfiles"
        ) from None
    return watchfiles


def follow(folders: Sequence[Path], own: Sequence[Path], is_known: Callable[[Key], bool]) -> Generator[Shot]:
    """Wait for pictures, without end.

    Args:
        folders: Where a camera writes them, also into folders within.
        own: Folders of results within, which are left out.
        is_known: Tells whether a picture has been judged.

    Yields:
        Shot: Each new picture that can be read, and each that could not be for ten seconds.
    """
    folders = [folder.resolve() for folder in folders]
    left_out = [path.resolve() for path in own]

    def concerns(path: Path) -> bool:
        inner = [path.relative_to(folder) for folder in folders if path.is_relative_to(folder)]
        is_result = path.parent.name in DRAWN and (path.parent.parent / ORIGIN).is_file()
        return all(map(is_picture, inner)) and not is_result and not any(map(path.is_relative_to, left_out))

    waiting: dict[str, _Wait] = {}
    next_listing = 0.0
    changes = import_watchfiles().watch(
        *folders, watch_filter=None, debounce=TICK_MS, step=TICK_MS // 2, rust_timeout=TICK_MS, yield_on_timeout=True
    )
    for announced in changes:
        begin = time.monotonic()
        found = [path for _, name in announced if concerns(path := Path(name))]
        if begin >= next_listing:
            found += [path for folder in folders for path in pictures_within(folder, own)]
        for path in found:
            key = key_of(path)
            if key.path not in waiting and not is_known(key):
                waiting[key.path] = _Wait(path)
        if begin >= next_listing:
            now = time.monotonic()
            next_listing = now + max(LISTED, LISTING_SHARE * (now - begin))
        for name, wait in list(waiting.items()):
            shot = wait.look()
            if wait.is_over:
                del waiting[name]
            if shot is not None:
                yield shot


class _Wait:
    """A picture that is being written."""

    def __init__(self, path: Path) -> None:
        self._path, self.is_over = path, False
        self._key, self._since = key_of(path), time.monotonic()
        self._next = self._since + SETTLED

    def look(self) -> Shot | None:
        """Read the picture if it is written, or given up."""
        key, now = key_of(self._path), time.monotonic()
        if key.bytes is None:  # it was moved or removed
            self.is_over = True
        elif key != self._key:
            self._key, self._since, self._next = key, now, now + SETTLED
        elif now >= self._next:
            shot = take(self._path)
            if shot.key == key == key_of(self._path) and (not shot.problem or now - self._since >= PATIENCE):
                self.is_over = True
                return shot
            # Less and less often, and once more when the patience ends.
            self._next = min(now + (now - self._since), max(now + SETTLED, self._since + PATIENCE))
        return None
