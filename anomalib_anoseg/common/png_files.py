"""What a PNG file says beside its pixels."""

import os
from pathlib import Path

__all__ = ["read_without_pixels"]

SIGNATURE, HEAD, CHECKSUM = 8, 8, 4  # bytes; a chunk's head is its length and its name
PIXELS = {b"IDAT", b"fdAT"}


def read_without_pixels(path: Path) -> bytes:
    """Read all chunks of a PNG file but those of its pixels, which are most of it.

    Example:
        >>> from tempfile import mkdtemp
        >>> from PIL import Image
        >>> path = Path(mkdtemp()) / "noise.png"
        >>> Image.effect_noise((64, 64), 100).save(path)
        >>> path.stat().st_size > 1000, len(read_without_pixels(path)) < 60
        (True, True)
    """
    kept = []
    with path.open("rb", buffering=0) as file:
        file.seek(SIGNATURE)
        while len(head := file.read(HEAD)) == HEAD:
            length = int.from_bytes(head[:4], "big") + CHECKSUM
            kept.append(head)
            if head[4:] in PIXELS:
                file.seek(length, os.SEEK_CUR)
            else:
                kept.append(file.read(length))
    return b"".join(kept)
