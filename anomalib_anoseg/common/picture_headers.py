"""What a picture's file says beside its pixels."""

import os
from pathlib import Path
from typing import Any

from PIL import ImageSequence

__all__ = ["BITS", "bits_per_channel", "count_pages", "orientation_of", "read_without_pixels"]

BITS = 8  # a channel, as networks see pictures
ORIENTATION, BITS_PER_SAMPLE, SUBFILE = 0x0112, 258, 254  # tags of EXIF and TIFF
TAGS = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")  # of PNG chunks that may hold an orientation
SIGNATURE, HEAD, CHECKSUM = 8, 8, 4  # bytes of a PNG file; a chunk's head is its length and its name
PIXELS = {b"IDAT", b"fdAT"}


def bits_per_channel(image: Any) -> int:  # noqa: ANN401 - formats have attributes of their own
    """Read the bits in the file of an opened picture: Pillow reads colours of 16 bits as 8 and does not say so."""
    if image.format == "PNG":
        with Path(image.filename).open("rb") as file:
            return file.read(25)[24]  # signature 8, length 4, IHDR 4, width 4, height 4, bit depth 1
    return int(max(image.tag_v2.get(BITS_PER_SAMPLE, (1,)))) if image.format == "TIFF" else BITS


def orientation_of(image: Any) -> int:  # noqa: ANN401
    """Read the EXIF tag of an opened picture; 1 is upright.

    Pillow turns TIFF files itself, and decodes PNG files to look for tags.
    """
    if image.format == "PNG" and not image.info.keys() & {"exif", "xmp"}:
        content = read_without_pixels(Path(image.filename))
        if not any(tag in content for tag in TAGS):
            return 1
    try:
        return int(image.getexif().get(ORIENTATION, 1) or 1)
    except Exception:  # noqa: BLE001 - EXIF may be corrupt, which harms no pixel
        return 1


def count_pages(image: Any) -> int:  # noqa: ANN401
    """Count the pages of an opened TIFF file, or the pictures of an animation, without smaller copies of a page."""
    pages = getattr(image, "n_frames", 1)
    if pages == 1 or image.format == "MPO":  # a camera's JPEG, with previews behind its picture
        return 1
    if image.format != "TIFF":
        return int(pages)
    kinds = [frame.tag_v2.get(SUBFILE, 0) for frame in ImageSequence.Iterator(image)]
    image.seek(0)
    return sum(not kind & 1 for kind in kinds)


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
