"""Each kind of file that a network must not see is named with its cause and the remedy."""

import os
import re
import struct
import time
import warnings
import zlib
from threading import Barrier

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile

from anomalib_anoseg.common.picture_files import examine_picture, read_examined, reading_threads

SIZE = (24, 16)  # width, height


def wide(color, row):
    """Write a PNG of 16 bits a channel with a colour type, which Pillow cannot write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", *SIZE, 16, color, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for _ in range(SIZE[1])))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return lambda path: path.write_bytes(content)


def picture(mode="RGB"):
    return Image.fromarray(np.arange(3 * 24 * 16, dtype=np.uint8).reshape(16, 24, 3)).convert(mode)


def save(content, **options):
    return lambda path: content.save(path, **options)


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(picture(), exif=exif)


def turned_late(path):
    """A PNG file with its EXIF behind the pixels, as some tools write it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    picture().save(path)
    pixels, end = path.read_bytes()[:-12], path.read_bytes()[-12:]
    path.write_bytes(pixels + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data)) + end)


def large(path):
    """A header that claims more pixels than Pillow reads: a line scan."""
    path.write_bytes(b"P6 300000 4096 255\n" + bytes(30))


def truncated(path):
    picture().save(path)
    path.write_bytes(path.read_bytes()[:-200])


def pages(kind):
    """A TIFF file with a second page of a kind: 0 is a picture, 1 a smaller copy."""

    def write(path):
        with tifffile.TiffWriter(path) as file:
            file.write(np.asarray(picture()), photometric="rgb")
            file.write(np.asarray(picture())[::2, ::2], photometric="rgb", subfiletype=kind)

    return write


def link(target):
    return lambda path: path.symlink_to(path.parent / target)


def loop(path):
    path.symlink_to(path)


NAN = np.full((16, 24), np.nan, np.float32)
DEEP = np.full((16, 24), 4000, np.uint16)
WIDE_ROW = struct.pack(">3H", 4000, 3000, 2000) * 24

# kind -> file, how to write it, words that must stand in the message
KINDS = {
    "16-bit grey PNG": ("a.png", save(Image.fromarray(DEEP)), "mode 'I;16' .*more than 8 bits.*to white.*Convert"),
    "16-bit grey TIFF": ("a.tif", save(Image.fromarray(DEEP)), "mode 'I;16' .*more than 8 bits.*Convert"),
    "32-bit TIFF": ("a.tif", save(Image.fromarray(DEEP.astype(np.int32))), "mode 'I' .*more than 8 bits.*Convert"),
    "float TIFF": ("a.tif", save(Image.fromarray(np.ones((16, 24), np.float32))), r"mode 'F' \(more than 8 bits a.*l\)"),  # noqa: E501
    "NaN TIFF": ("a.tiff", save(Image.fromarray(NAN)), "mode 'F' .*some of them not a number.*Convert"),
    "48-bit PNG": ("a.png", wide(2, WIDE_ROW), "has 16 bits a channel.*nearly black.*Convert"),
    "64-bit PNG": ("a.png", wide(6, b"\x0f" * 192), "has 16 bits a channel.*Convert"),
    "LAB TIFF": ("a.tif", save(Image.new("LAB", SIZE)), "colour space LAB .*8 bits a channel but.*Convert it to RGB"),
    "transparent PNG": ("a.png", save(Image.new("RGBA", SIZE, (9, 9, 9, 254))), "transparent pixels.*Flatten"),
    "transparent WebP": ("a.webp", save(Image.new("RGBA", SIZE, (9, 9, 9, 0))), "transparent pixels.*Flatten"),
    "turned JPEG": ("a.jpg", turned(6), r"turned or mirrored \(EXIF orientation 6\).*exif_transpose"),
    "PNG turned behind its pixels": ("a.png", turned_late, r"EXIF orientation 6\).*exif_transpose"),
    "mirrored PNG": ("a.png", turned(2), r"EXIF orientation 2\).*exif_transpose"),
    "TIFF of two pages": ("a.tif", pages(0), "holds 2 pictures, of which anomalib reads the first alone. Save each"),
    "animation": ("a.webp", save(picture(), save_all=True, append_images=[picture("L")]), "holds 2 pictures.*Save"),
    "line scan": ("a.ppm", large, "has 300000 x 4096 pixels, more than the 178,956,970.*Cut.*MAX_IM"),
    "truncated PNG": ("a.png", truncated, "not an image, or is corrupt.*Replace or remove"),
    "truncated JPEG": ("a.jpg", truncated, "not an image, or is corrupt .*[Tt]runcated.*Replace or remove"),
    "empty": ("a.png", lambda path: path.touch(), "not an image, or is corrupt.*Replace or remove"),
    "text": ("a.jpg", lambda path: path.write_text("no"), "not an image, or is corrupt.*Replace or remove"),
    "pipe": ("a.png", os.mkfifo, "is a named pipe, not a picture.*remove"),
    "folder": ("a.png", os.mkdir, "is a folder, not a picture.*Rename"),
    "dangling link": ("a.png", link("gone.png"), "is a link to .*gone.png, which cannot be reached. Restore"),
    "link in a circle": ("a.png", loop, "is a link to .*a.png, which cannot be reached"),
    "missing": ("a.png", lambda _: None, "does not exist. Restore it"),
    "not UTF-8": (os.fsdecode(b"caf\xe9.png"), save(picture()), r"caf\\xe9.png has a name that is not UTF-8.*Rename"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "write", "says"), KINDS.values(), ids=KINDS)
def test_unusable_file_is_named_with_cause_and_remedy(tmp_path, name, write, says):
    path = tmp_path / name
    write(path)
    problem = examine_picture(path).problem
    assert re.search(says, problem)
    assert problem.startswith(str(tmp_path))
    assert "\n" not in problem
    with pytest.raises(ValueError, match=re.escape(problem)):
        read_examined(path, lambda: Image.open(path).convert("RGB"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read(tmp_path):
    picture().save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    assert "a.png may not be read. Change its permissions" in examine_picture(tmp_path / "a.png").problem


def test_48_bit_tiff_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((16, 24, 3), 4000, np.uint16), photometric="rgb")
    assert "a.tif" in examine_picture(tmp_path / "a.tif").problem


GOOD = {
    "upright JPEG": ("a.jpg", turned(1)),
    "broken EXIF": ("a.jpg", save(picture(), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")),
    "TIFF turned by Pillow": ("a.tif", save(picture(), tiffinfo={0x0112: 6})),
    "TIFF with a smaller copy": ("a.tif", pages(1)),
    "grey TIFF": ("a.tif", save(picture("L"))),
    "opaque": ("a.png", save(picture("RGBA"))),
    "palette": ("a.png", save(picture("P"))),
    "two levels": ("a.png", save(picture("1"))),
    "CMYK": ("a.jpg", save(picture("CMYK"))),
    "name in UTF-8": ("Prüfteil.png", save(picture())),
}


@pytest.mark.parametrize(("name", "write"), GOOD.values(), ids=GOOD)
def test_usable_file_has_a_size_and_a_thumbnail(tmp_path, name, write):
    write(tmp_path / name)
    found = examine_picture(tmp_path / name)
    assert not found.problem
    assert found.size in {SIZE, SIZE[::-1]}
    assert found.thumbnail.shape == (32, 32)
    assert not found.is_constant


@pytest.mark.parametrize(("name", "write"), GOOD.values(), ids=GOOD)
def test_usable_file_is_decoded_once_by_who_reads_it(tmp_path, name, write, monkeypatch):
    write(tmp_path / name)
    decoded, load = [], ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda file: (decoded.append(bool(file.tile)), load(file))[1])
    read = read_examined(tmp_path / name, lambda: Image.open(tmp_path / name).convert("RGB"))
    assert read.size in {SIZE, SIZE[::-1]}
    # What the header does not tell, Pillow alone knows: opacity, and whether it turned a TIFF itself.
    assert sum(decoded) == 1 or name == "a.tif" or Image.open(tmp_path / name).mode == "RGBA"


def test_what_fails_without_fault_of_the_picture_is_raised_as_it_is(tmp_path):
    picture().save(tmp_path / "a.png")
    with pytest.raises(ZeroDivisionError):
        read_examined(tmp_path / "a.png", lambda: 1 / 0)


def test_constant_picture_is_known(tmp_path):
    Image.new("RGB", SIZE, (10, 20, 30)).save(tmp_path / "a.png")
    assert examine_picture(tmp_path / "a.png").is_constant


def test_file_is_read_once_unless_it_changes(tmp_path, monkeypatch):
    picture().save(tmp_path / "a.png")
    assert not examine_picture(tmp_path / "a.png").problem
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", None)
        assert not examine_picture(tmp_path / "a.png").problem
    (tmp_path / "a.png").write_bytes(b"spoiled")
    assert examine_picture(tmp_path / "a.png").problem


def test_files_are_read_side_by_side_and_filters_of_warnings_stay(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    before, both = list(warnings.filters), Barrier(2, timeout=5)
    with reading_threads() as threads:
        assert sorted(threads.map(lambda _: both.wait(), range(2))) == [0, 1]
    with pytest.raises(RuntimeError, match="stop"), reading_threads() as threads:
        raise RuntimeError("stop")
    assert warnings.filters == before


def test_limit_of_pixels_stays_when_threads_meet_large_files(tmp_path, monkeypatch):
    limit, original = Image.MAX_IMAGE_PIXELS, Image.open

    def slow(path):
        time.sleep(0.01 if Image.MAX_IMAGE_PIXELS is None else 0)
        return original(path)

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(Image, "open", slow)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    paths = [tmp_path / f"{number}.ppm" for number in range(8)]
    for path in paths:
        large(path)
    with reading_threads() as threads:
        assert all("300000 x 4096" in picture.problem for picture in threads.map(examine_picture, paths))
    assert limit == Image.MAX_IMAGE_PIXELS
