"""Masks that would mark other pixels than meant, and masks that would be paired with another picture."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from anomalib_anoseg.common import mask_files
from anomalib_anoseg.common.mask_files import belong_together, examine_mask, examine_pairs

BOX = (11, 13, 30, 42)


def drawn(size=(64, 48), mode="L", ground=0, ink=255):
    mask = Image.new(mode, size, ground)
    ImageDraw.Draw(mask).rectangle(BOX, fill=ink)
    return mask


def class_ids():
    return Image.fromarray(np.asarray(drawn()) // 255 * 3 + np.asarray(drawn().transpose(1)) // 255)


def fading(shape):
    """A band that fades to both sides."""
    width, height = shape
    levels = (255 - 7 * np.abs(np.arange(-width // 2, width // 2))).astype(np.uint8)
    return Image.fromarray(np.tile(levels, (height, 1)))


def instances():
    """Twelve hard-edged parts, each with a number; some touch."""
    levels = np.zeros((48, 64), np.uint8)
    for number in range(12):
        top, left = divmod(number, 4)
        levels[2 + 15 * top :, 3 + 15 * left :][:12, : 15 - number % 2 * 5] = number + 1
    return Image.fromarray(levels)


# kind -> file, mask, words that must stand in the message; none if the mask is good
KINDS = {
    "white": ("0.png", drawn(), ""),
    "opaque colours": ("0.png", drawn(mode="RGBA", ground=(0, 0, 0, 255), ink=(255,) * 4), ""),
    "cut out of black": ("0.png", drawn(mode="RGBA", ground=(0, 0, 0, 0), ink=(255,) * 4), ""),
    "classes": ("0.png", class_ids(), ""),
    "instances": ("0.png", instances(), ""),
    "one bit": ("0.png", drawn().convert("1"), ""),
    "empty": ("0.png", drawn(ink=0), ""),
    "transparent white": ("0.png", drawn(mode="RGBA", ground=(255, 255, 255, 0), ink=(255,) * 4),
                          "marks by transparency.* 100% would be defective. Save masks as PNG"),
    "black ink": ("0.png", drawn(mode="RGBA", ground=(0, 0, 0, 0), ink=(0, 0, 0, 255)), "transparency.* 0% would"),
    "JPEG": ("0.jpg", drawn(), r"JPEG blurs its edges.*count as defective: 1\.\d+ times.*Save masks as PNG"),
    "shrunk": ("0.png", drawn((640, 480)).resize((64, 48)), "soft edges.*count as defective.*as PNG"),
    "soft sides": ("0.png", fading((64, 48)), "soft edges.*count as defective.*as PNG"),
    "soft above": ("0.png", fading((48, 64)).transpose(Image.Transpose.TRANSPOSE), "soft edges.*count as defective"),
    "soft": ("0.png", drawn().filter(ImageFilter.GaussianBlur(3)), "soft edges.*count as defective.*as PNG"),
    "size": ("0.png", drawn((48, 64)), "has 48 x 64 pixels, its picture 0.png has 64 x 48. Make masks of the size"),
    "corrupt": ("0.png", None, "not a mask, or is corrupt.*Replace"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "mask", "says"), KINDS.values(), ids=KINDS)
def test_mask_marks_what_is_meant_or_is_named(tmp_path, name, mask, says):
    picture, path = tmp_path / "bad" / "0.png", tmp_path / "masks" / name
    for folder in (picture.parent, path.parent):
        folder.mkdir()
    Image.new("RGB", (64, 48)).save(picture)
    mask.save(path) if mask else path.write_bytes(b"spoiled")
    problem = examine_mask(path, picture)
    assert bool(problem) == bool(says)
    assert re.search(says, problem)
    assert not problem or problem.startswith(str(path))


@pytest.mark.parametrize(
    ("picture", "mask", "expected"),
    [
        ("000", "000", True),
        ("000", "000_mask", True),
        ("anomaly-1", "anomaly-10_mask", False),
        ("1", "21", False),
        ("part", "part1", True),
        ("a(1)", "a(1)", True),
        ("a", "b", True),  # a table may say so
        ("1", "01", True),
        ("1", "mask_001", True),
        ("0", "000", True),
        ("1", "mask_101", False),
        ("1", "1/010", True),  # a folder of masks
    ],
)
def test_numbers_in_names_are_whole(picture, mask, expected):
    assert belong_together(f"bad/{picture}.png", f"masks/{mask}.png") == expected


def test_mask_of_another_folder_is_found(tmp_path):
    for folder in ("bad/crack", "bad/hole", "masks/crack", "masks/hole"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / folder / "0.png")
    crack = tmp_path / "bad" / "crack" / "0.png"
    assert not examine_mask(tmp_path / "masks" / "crack" / "0.png", crack)
    assert "would be the mask of" in examine_mask(tmp_path / "masks" / "hole" / "0.png", crack)


def test_pairs_are_examined_by_name():
    bad = [Path(f"bad/a-{number}.png") for number in (1, 10, 2)]
    assert examine_pairs(bad, [Path(f"m/{one.name}") for one in bad]) == []
    padded = [Path(f"m/{number:03}.png") for number in (1, 2, 3)]
    assert examine_pairs([Path(f"bad/{number}.png") for number in (1, 2, 3)], padded) == []
    assert [
        problem[:40] for problem in examine_pairs(bad, [Path("m/a-1.png"), Path("m/x.png"), Path("m/a-2.png")])
    ] == [
        "bad/a-10.png has no mask. Add one of its",
        "m/x.png is the mask of no picture. Renam",
    ]
    (problem,) = examine_pairs(bad, [Path(f"m/{one.stem}_mask.png") for one in bad])
    assert "m/a-10_mask.png would be the mask of bad/a-1.png" in problem
    assert "leading zeros" in problem


def test_many_pairs_are_matched_without_a_pattern_for_each_of_each(monkeypatch):
    asked, original = [], mask_files._is_named_after
    monkeypatch.setattr(mask_files, "_is_named_after", lambda *names: asked.append(names) or original(*names))
    bad = [Path(f"bad/{number:03}.png") for number in range(100)]
    assert examine_pairs(bad, [Path(f"m/{one.stem}_mask.png") for one in bad]) == []
    assert len(asked) == 200


def test_mask_is_read_once_unless_a_file_changes(tmp_path, monkeypatch):
    picture, mask = tmp_path / "0.png", tmp_path / "0_mask.png"
    for path in (picture, mask):
        drawn().save(path)
    assert not examine_mask(mask, picture)
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", None)
        assert not examine_mask(mask, picture)
    drawn((48, 64)).save(picture)
    assert "has 64 x 48 pixels, its picture 0.png has 48 x 64" in examine_mask(mask, picture)
