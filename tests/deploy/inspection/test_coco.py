"""The COCO file is read by the tools that the guide names; each test needs its tool's library."""

import json

import pytest

from anomalib_anoseg.deploy.inspection.coco import write_coco

from .conftest import make_picture

REGIONS = [
    {"box": [8, 4, 16, 12], "area": 60, "peak": 0.8},
    {"box": [0, 18, 32, 24], "area": 100, "peak": 0.7},
]


@pytest.fixture
def coco(tmp_path):
    """A good picture, and one with two regions."""
    lines = []
    for name, label, regions in (("good", "normal", []), ("bad", "anomalous", REGIONS)):
        path = tmp_path / "pictures" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        make_picture().save(path)
        lines.append({"path": str(path), "label": label, "score": 0.8, "size": [32, 24], "regions": regions})
    write_coco(tmp_path / "coco.json", lambda: iter(lines))
    return tmp_path / "coco.json"


def test_label_studio_reads_boxes_in_percent(coco, tmp_path):
    converter = pytest.importorskip("label_studio_sdk.converter.imports.coco", reason="needs label-studio-sdk")
    converter.convert_coco_to_ls(str(coco), str(tmp_path / "tasks.json"), out_type="predictions")
    good, bad = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    path = str(tmp_path / "pictures" / "bad.png").lstrip("/")
    assert bad["data"]["image"] == f"/data/local-files/?d={path}"
    assert good["predictions"][0]["result"] == []
    boxes = [result["value"] for result in bad["predictions"][0]["result"]]
    sides = [[box[name] for name in ("x", "y", "width", "height")] for box in boxes]
    assert sides == [pytest.approx([25, 100 / 6, 25, 100 / 3]), [0, 75, 100, 25]]
    assert [box["rectanglelabels"] for box in boxes] == [["anomalous"]] * 2


def test_fiftyone_reads_boxes_and_scores(coco, tmp_path):
    importers = pytest.importorskip("fiftyone.utils.coco", reason="needs fiftyone")
    importer = importers.COCODetectionDatasetImporter(
        data_path=str(tmp_path / "pictures"), labels_path=str(coco), label_types=["detections"]
    )
    importer.setup()
    (_, _, good), (path, metadata, bad) = importer
    assert (path, metadata.width, metadata.height) == (str(tmp_path / "pictures" / "bad.png"), 32, 24)
    assert not (good and good.detections)
    first, second = bad.detections
    assert first.bounding_box == pytest.approx([8 / 32, 4 / 24, 8 / 32, 8 / 24])
    assert second.bounding_box == pytest.approx([0, 18 / 24, 1, 6 / 24])
    assert [(found.label, found.confidence) for found in (first, second)] == [("anomalous", 0.8), ("anomalous", 0.7)]
