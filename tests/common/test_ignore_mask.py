"""What a file of an ignored region means, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from anomalib_anoseg.common.ignore_mask import explain_shape, read_ignore_mask
from anomalib_anoseg.common.picture_files import Picture

SQUARE = [[2, 1], [5, 1], [5, 3], [2, 3]]


def save(path, content):
    if isinstance(content, (str, dict)):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    else:
        Image.fromarray(np.array(content)).save(path)
    return path


def test_white_is_ignored_in_every_kind_of_picture(tmp_path):
    levels = np.zeros((4, 6), np.uint8)
    levels[1:3, 2:5] = 255
    kinds = [Image.fromarray(levels), Image.fromarray(levels).convert("1"), Image.fromarray(levels).convert("RGB")]
    for number, image in enumerate([*kinds, Image.fromarray(levels).convert("P")]):
        image.save(tmp_path / f"{number}.png")
        assert np.array_equal(read_ignore_mask(tmp_path / f"{number}.png"), levels > 0)


def test_polygons_cover_every_pixel_that_they_touch(tmp_path):
    path = save(tmp_path / "mask.json", {"size": [8, 6], "polygons": [SQUARE, [[7, 5], [99, 5], [7, 99]]]})
    found = read_ignore_mask(path)
    assert found.shape == (6, 8)
    assert found[1:4, 2:6].all()
    assert found[5, 7]  # a part of a polygon outside of the picture is cut off
    assert found.sum() == 13


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", np.zeros((4, 4), np.uint8), r"a\.png marks nothing\. Paint white \(255\) what is to be ignored"),
        ("a.png", np.ones((4, 4), np.uint8), "marks nothing"),  # numbers of classes
        ("a.png", np.full((4, 4), 255, np.uint8), "marks the whole picture"),
        ("a.png", np.zeros((4, 4), np.uint16), "more than 8 bits a channel"),
        ("a.png", np.zeros((4, 4, 4), np.uint8), "transparent pixels"),
        ("a.png", "no picture", "is not an image, or is corrupt"),
        ("a.json", "{", r'a\.json is not valid JSON .*Write \{"size": \[width, height\], "polygons"'),
        ("a.json", "[]", "Write"),
        ("a.json", {"polygons": [SQUARE]}, r"a\.json lacks size\. Write"),
        ("a.json", {"size": [8, 0], "polygons": [SQUARE]}, "wrong at size.1: .*greater than or equal to 1"),
        ("a.json", {"size": [8, 6], "polygons": []}, "wrong at polygons: .*at least 1 item"),
        ("a.json", {"size": [8, 6], "polygons": [SQUARE[:2]]}, "wrong at polygons.0: .*at least 3 items"),
        ("a.json", {"size": [8, 6], "polygons": SQUARE}, "wrong at polygons.0.0: "),  # a level of brackets is missing
        ("a.json", {"size": [8, 6], "polygons": [[[20, 20], [30, 20], [30, 30]]]}, "marks nothing"),
    ],
)
def test_what_is_no_mask_is_refused_in_a_line(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=f"^ignore_mask: .*{message}") as caught:
        read_ignore_mask(save(tmp_path / name, content))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    for name in ("mask.png", "mask.json"):
        with pytest.raises(ValueError, match=rf"^ignore_mask: there is no file .*{name}\. Name a picture, or polygons"):
            read_ignore_mask(tmp_path / name)


@pytest.mark.parametrize(
    ("mask", "picture", "is_refused"),
    [
        ((2448, 2048), (2448, 2048), False),
        ((612, 512), (2448, 2048), False),
        ((640, 480), (2592, 1944), False),
        ((1024, 857), (2448, 2048), False),  # 856.7, rounded
        ((640, 480), (2448, 2048), True),
        ((2048, 2448), (2448, 2048), True),
        ((2448, 2040), (2448, 2048), True),
    ],
)
def test_a_mask_may_be_scaled_but_not_of_another_shape(mask, picture, is_refused):
    assert bool(explain_shape(mask, Picture(size=picture), "0.png")) == is_refused
