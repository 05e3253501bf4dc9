"""The doctor looks at a whole data set: everything that is wrong stands in one list, and a good set has none."""

import re
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest
from anomalib.data import AutoVI, BTech, Folder, MVTecAD, MVTecLOCO
from PIL import Image

from anomalib_anoseg.cli.doctor.data_set import examine_data
from anomalib_anoseg.cli.doctor.output import Findings
from anomalib_anoseg.cli.main import main
from anomalib_anoseg.common.appearance import PROPERTIES
from anomalib_anoseg.deploy.record import Appearance
from anomalib_anoseg.training.data_folders import explain_refusal

CONFIG = "configs/laptop.yaml"


@pytest.fixture
def top(tiny_root, tmp_path):
    """The category's folder in a copy that may be spoiled."""
    return shutil.copytree(tiny_root, tmp_path / "tiny") / "stripes"


@pytest.fixture
def data(top):
    split = {"val_split_mode": "from_train", "val_split_ratio": 0.25, "seed": 0}
    return partial(MVTecAD, top.parent, "stripes", num_workers=0, **split)


def examine(datamodule):
    findings = Findings()
    examine_data(datamodule, findings)
    return findings


@pytest.mark.parametrize(("level", "named"), [(110.0, []), (250.0, ["training", "test"])])
def test_pictures_unlike_those_held_out_are_a_problem(data, level, named):
    """Stripes have a grey level of about 110; two pictures for validation are too few to tell."""
    findings = Findings()
    ranges = dict.fromkeys(PROPERTIES, (0.0, 1.0, 1e9)) | {"grey": (level - 10, level, level + 10)}
    examine_data(data(), findings, appearance=Appearance((64, 64), 20, 2, **ranges))
    told = [problem.split(" (median grey")[0] for problem in findings.problems]
    assert told == [f"The {part} pictures are darker" for part in named]


def good(top):
    return top / "train" / "good"


def bad(top):
    return top / "test" / "square"


def mask(top):
    return top / "ground_truth" / "square" / "001_mask.png"


def resave(top):
    with Image.open(good(top) / "003.png") as image:
        image.save(bad(top).parent / "good" / "001.png", quality=80, format="JPEG")


def jpeg(top):
    with Image.open(mask(top)) as image:
        image.save(mask(top), format="JPEG")


def recolour(top, size):
    colours = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(colours).save(good(top) / "003.png")


# kind -> how to spoil the set, words that must stand in the problems, and in the notes
KINDS = {
    "nothing": (lambda _: None, [], []),
    "16 bits": (
        lambda top: Image.new("I;16", (64, 64)).save(good(top) / "003.png"),
        ["003.png has pixels of mode"],
        [],
    ),
    "corrupt": (lambda top: (bad(top) / "001.png").write_bytes(b"no"), ["square.001.png is not an image"], []),
    "folder": (lambda top: (good(top) / "x.png").mkdir(), ["good.x.png is a folder, not a picture"], []),
    "dangling": (lambda top: (bad(top) / "3.png").symlink_to("gone"), ["3.png has no mask", "3.png is a link to"], []),
    "mask alone": (lambda top: (bad(top) / "001.png").unlink(), ["001_mask.png is the mask of no picture. Rename"], []),
    "no mask": (lambda top: mask(top).unlink(), ["square.001.png has no mask. Add one"], []),
    "JPEG mask": (jpeg, ["001_mask.png has grey pixels"], []),
    "other size": (lambda top: Image.new("L", (9, 9)).save(mask(top)), ["001_mask.png has 9 x 9 pixels, its"], []),
    "constant": (lambda top: Image.new("RGB", (64, 64)).save(good(top) / "003.png"), [], ["003.png has one colour"]),
    "sizes": (lambda top: recolour(top, (9, 8)), [], ["Pictures have 2 sizes, from 8 x 9 to 64 x 64 pixels"]),
    "same": (
        lambda top: shutil.copy(good(top) / "003.png", bad(top) / "001.png"),
        ["square.001.png is a test picture and, byte by byte, the training picture .*good.003.png"],
        [],
    ),
    "saved anew": (resave, [], ["test.good.001.png looks like the training picture .*train.good.003.png"]),
}


@pytest.mark.parametrize(("spoil", "problems", "notes"), KINDS.values(), ids=KINDS)
def test_each_kind_is_named(top, data, spoil, problems, notes):
    spoil(top)
    findings = examine(data())
    told = [note for note in findings.notes if not note.startswith("Thresholds will rest on 2")]
    for found, expected in ((sorted(findings.problems), problems), (told, notes)):
        assert len(found) == len(expected)
        assert all(map(re.search, expected, found))


def test_all_findings_stand_in_one_list(top, data):
    for kind in ("16 bits", "corrupt", "folder", "other size"):
        KINDS[kind][0](top)
    found = sorted(examine(data()).problems)
    assert len(found) == 3
    assert all(map(re.search, (KINDS[kind][1][0] for kind in ("corrupt", "16 bits", "folder")), found))


def test_an_ignore_mask_is_compared_with_the_pictures(data, tmp_path):
    path = tmp_path / "wide.png"
    for problem in ("marks nothing", r"ignore_mask has 96 x 64 pixels, but .*000\.png has 64 x 64\. Draw"):
        Image.fromarray(np.tri(64, 96, dtype=np.uint8) * (1 if "nothing" in problem else 255)).save(path)
        findings = Findings()
        examine_data(data(), findings, path)
        assert len(findings.problems) == 1
        assert re.search(problem, findings.problems[0])


def test_too_few_pictures_to_hold_some_out(top):
    for path in sorted(good(top).iterdir())[3:]:
        path.unlink()
    folder = Folder("parts", good(top), test_split_mode="none", val_split_mode="from_train", val_split_ratio=0.1)
    (problem,) = examine(folder).problems
    assert "val_split_mode from_train, val_split_ratio 0.1, 3 training pictures. Raise the ratio, or add" in problem


def test_path_that_anomalib_refuses(tmp_path):
    (tmp_path / "Prüfteile").mkdir()
    (problem,) = examine(Folder("parts", tmp_path / "Prüfteile")).problems
    assert problem.startswith("anomalib refuses the path")
    assert "Rename the folder" in problem


def btech(top, category):
    (category / "ground_truth" / "ko").mkdir(parents=True)
    for part in ("train/good", "test/good", "test/square"):
        place = category / part.replace("good", "ok").replace("square", "ko")
        shutil.copytree(top / part, place)
    for path in (top / "ground_truth" / "square").iterdir():
        shutil.copy(path, category / "ground_truth" / "ko" / path.name.replace("_mask", ""))


def nested(masks, top, category):
    """Write a folder of masks for each picture."""
    shutil.copytree(top, category)
    shutil.rmtree(category / "ground_truth")
    for path in (top / "ground_truth" / "square").iterdir():
        place = category / "ground_truth" / "square" / path.name.replace("_mask.png", "")
        place.mkdir(parents=True)
        for name in masks:
            shutil.copy(path, place / name)


def loco(top, category):
    nested(("000.png", "001.png"), top, category)
    shutil.copytree(top / "test" / "good", category / "validation" / "good")


LAYOUTS = {
    "BTech": (btech, BTech, "01", "ground_truth/ko/001.png"),
    "MVTec LOCO": (loco, MVTecLOCO, "pushpins", "ground_truth/square/001/001.png"),
    "AutoVI": (partial(nested, ("0000.png",)), AutoVI, "pipe_clip", "ground_truth/square/001/0000.png"),
}


@pytest.mark.parametrize(("write", "kind", "category", "spoilt"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_of_other_sets(top, tmp_path, write, kind, category, spoilt):
    write(top, tmp_path / category)
    data = partial(kind, tmp_path, category, num_workers=0)
    with pd.option_context("future.infer_string", False):  # with pandas 3 anomalib lists no LOCO and no AutoVI
        assert examine(data()).problems == []
        Image.new("L", (9, 9)).save(tmp_path / category / spoilt)
        (problem,) = examine(data()).problems
    assert explain_refusal(data(), ValueError("another cause")) is None
    assert f"{spoilt} has 9 x 9 pixels, its picture 001.png has 64 x 64" in problem


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"mask_dir": "misspelt"}, "Path does not exist"), ({"val_split_ratio": 1.5}, "All split ratios must be")],
)
def test_words_of_the_data_module_lead_where_the_cause_is_not_known(top, settings, says):
    settings = {"normal_dir": "train/good", "root": top, "val_split_mode": "from_train"} | settings
    (problem,) = examine(Folder("parts", **settings)).problems
    assert problem.startswith(says)


def test_a_missing_folder_is_named_and_nothing_is_downloaded(top, tmp_path):
    (problem,) = examine(Folder("parts", root=top, normal_dir=["train/good", "misspelt"])).problems
    assert problem.startswith(f"There is no folder {top / 'misspelt'}. Correct root or normal_dir of `data`.")
    (problem,) = examine(MVTecAD(tmp_path / "nowhere", "bottle")).problems
    assert problem == f"There is no folder {tmp_path / 'nowhere' / 'bottle'}. Correct root or category of `data`."


@pytest.mark.parametrize("spoilt", [False, True])
def test_command_takes_a_configuration_for_training(top, capsys, spoilt):
    if spoilt:
        (bad(top) / "001.png").write_bytes(b"spoiled")
    with pytest.raises(SystemExit) as end:
        main([
            "doctor",
            "--config",
            CONFIG,
            "--data",
            "MVTecAD",
            "--data.root",
            str(top.parent),
            "--data.category",
            "stripes",
        ])
    assert ("001.png is not an image" in capsys.readouterr().out.replace("\n", "")) == spoilt
    assert end.value.code == spoilt
