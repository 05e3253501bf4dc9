"""Pictures that do not look like those held out are named, and all others are not."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter
from scipy.stats import betabinom

from anomalib_anoseg.common.appearance import summarize
from anomalib_anoseg.deploy.description import describe_appearance
from anomalib_anoseg.deploy.inspection import inspection
from anomalib_anoseg.deploy.inspection.shift import BLOCK, LEVEL, ShiftMonitor, chance_beyond, explain_shift, look_at
from anomalib_anoseg.deploy.inspection.shots import take
from anomalib_anoseg.deploy.record import KEY

from .conftest import RECORD

HELD_OUT = 30
RANDOM = np.random.default_rng(0)


def describe(looks):
    return describe_appearance(summarize(looks, (24, 32)))


def draw_looks(count, random=RANDOM):
    """Properties of pictures of one camera."""
    return random.normal((120, 30, 0.1), (6, 3, 0.01), (count, 3))


@pytest.mark.parametrize(("pictures", "good_images", "outside"), [(12, 24, 2), (190, 381, 38), (7, 3, 1)])
def test_the_chance_is_that_of_a_beta_binomial_distribution(pictures, good_images, outside):
    for beyond in range(pictures + 1):
        expected = betabinom.sf(beyond - 1, pictures, outside, good_images + 1 - outside)
        assert chance_beyond(beyond, pictures, outside, good_images) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_many_pictures_are_compared_at_once():
    assert 0 <= chance_beyond(600_000, 1_000_000, 76, 762) < 1e-30


def test_equal_pictures_reach_a_chance_as_often_as_it_says():
    random, found = np.random.default_rng(1), []
    for _ in range(3000):
        held_out = np.sort(random.normal(size=99))
        beyond = int((random.normal(size=60) < held_out[9]).sum())
        found.append(chance_beyond(beyond, 60, 10, 99))
    assert 0.03 < np.mean(np.array(found) <= 0.05) < 0.06  # counts are whole, so that it is a little less


@pytest.mark.parametrize(("held_out", "pictures"), [(5, 20), (20, 8), (20, 50), (300, 300)])
def test_equal_pictures_are_hardly_ever_named(held_out, pictures):
    random = np.random.default_rng(2)
    named = [
        bool(explain_shift(draw_looks(pictures, random), describe(draw_looks(held_out, random)))) for _ in range(1000)
    ]
    assert np.mean(named) <= LEVEL


@pytest.mark.parametrize(
    ("column", "step", "words"),
    [
        (0, -20, "are darker (median grey level 1"),
        (0, 20, "are brighter"),
        (1, -10, "have less contrast"),
        (1, 10, "have more contrast"),
        (2, -0.03, "are less sharp"),
        (2, 0.03, "are sharper"),
    ],
)
def test_each_change_is_named_alone(column, step, words):
    looks = draw_looks(20)
    looks[:, column] += step
    line = explain_shift(looks, describe(draw_looks(HELD_OUT)))
    assert line.startswith(f"Pictures {words}")
    assert line.count(" against ") == 1
    assert "\n" not in line


@pytest.mark.parametrize("strange", [0.0, 255.0])
def test_defects_are_no_change(strange):
    """Whatever a third of the pictures looks like."""
    for _ in range(200):
        looks = draw_looks(200)
        looks[:66] = strange
        assert not explain_shift(looks, describe(draw_looks(200)))


def test_what_nobody_can_see_is_no_change():
    held_out = describe(np.tile((120.0, 30.0, 0.1), (HELD_OUT, 1)))
    assert not explain_shift(np.tile((119.5, 30.1, 0.1), (99, 1)), held_out)
    assert explain_shift(np.tile((118.0, 30.1, 0.1), (99, 1)), held_out)


# ------------------------------------------------------------------------------------------------------- inspections


def draw_picture(random=RANDOM):
    """A good part with texture, whose light varies a little."""
    pixels = random.normal(random.normal(90, 4), 25, (24, 32, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def held_out():
    size = replace(describe(draw_looks(HELD_OUT)), size=(24, 32))
    return describe(np.stack([look_at(draw_picture(), size) for _ in range(HELD_OUT)]))


@pytest.fixture(scope="module")
def checked(make_model, held_out):
    """A file that says how held-out pictures look."""
    return make_model("checked.onnx", {KEY: replace(RECORD, appearance=held_out).to_json()})


@pytest.fixture
def camera(tmp_path):
    """Write some pictures into a folder, changed in some way."""

    def write(count, change=lambda picture: picture):
        folder = tmp_path / "camera"
        folder.mkdir(exist_ok=True)
        for _ in range(count):
            change(draw_picture()).save(folder / f"{len(list(folder.iterdir())):04}.png")
        return folder

    return write


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda picture: ImageEnhance.Brightness(picture).enhance(0.7), "are darker (median grey level "),
        (lambda picture: ImageEnhance.Brightness(picture).enhance(1.4), "are brighter (median grey level "),
        (lambda picture: picture.filter(ImageFilter.GaussianBlur(1.5)), "are less sharp (median "),
    ],
)
def test_another_light_or_focus_is_named_wherever_one_looks(inspect, checked, camera, change, words, tmp_path, capsys):
    inspect(camera(12, change), path=checked)
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("Pictures ") and words in line
    assert "no stated rate of false alarms holds. Restore light, exposure and focus, or train again" in line
    assert "12 judged now; no stated rate of false alarms holds, see the warning. " in printed.out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["unlike_held_out"], summary["warning"], summary["judged_now"]) == (True, line, 12)


def test_pictures_like_those_held_out_are_not_named(inspect, checked, camera, tmp_path, capsys):
    inspect(camera(40), path=checked)
    printed = capsys.readouterr()
    assert not printed.err
    assert "40 judged now. " in printed.out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["unlike_held_out"], summary["warning"]) == (False, None)
    assert summary["normal"] + summary["anomalous"] == 40


@pytest.mark.parametrize("is_old", [True, False])
def test_nothing_is_said_of_what_cannot_be_told(inspect, model, checked, camera, tmp_path, is_old, capsys):
    """Of a file without a description, and of two pictures."""
    inspect(camera(30 if is_old else 2, lambda picture: picture.point(lambda _: 0)), path=model if is_old else checked)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["unlike_held_out"] is None
    assert not capsys.readouterr().err


def test_a_rate_that_cannot_be_watched_is_named(inspect, model, checked, camera, capsys):
    for path, is_named in ((model, True), (checked, False)):
        inspect(camera(1), path=path, rate=0.05, out=path.parent / "out")
        told = capsys.readouterr().err
        assert ("model.onnx does not say how the held-out good pictures look" in told) == is_named


def test_a_watch_tells_when_the_light_changes_and_when_it_is_back(
    inspect, checked, camera, tmp_path, monkeypatch, capsys
):
    dark = ImageEnhance.Brightness
    camera(2 * BLOCK)
    camera(2 * BLOCK, lambda picture: dark(picture).enhance(0.6))
    folder = camera(BLOCK + 3)
    monkeypatch.setattr(inspection, "import_watchfiles", lambda: None)
    monkeypatch.setattr(inspection, "follow", lambda *_: (take(path) for path in sorted(folder.iterdir())))
    results = inspect(folder, path=checked, watch=True, overlays="none")
    told = capsys.readouterr().err.splitlines()
    assert [line.split(" than ")[0].split(" (")[0] for line in told] == [
        f"The last {BLOCK} pictures are darker",
        f"The last {BLOCK} pictures look like the good ones held out again.",
    ]
    assert len(results) == 5 * BLOCK + 3
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["unlike_held_out"] is True
    assert summary["warning"].startswith(f"The last {BLOCK} pictures are darker")


def test_a_long_watch_does_not_warn_by_mistake(held_out, capsys):
    monitor = ShiftMonitor(held_out, is_watching=True)
    picture = [draw_picture() for _ in range(97)]
    for number in range(40 * BLOCK):
        monitor.add(picture[number % 97])
    assert (capsys.readouterr().err, monitor.warning, monitor.unlike_held_out) == ("", "", False)
