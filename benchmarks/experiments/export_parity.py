"""Count decisions of exported files that differ from those of `anomalib predict`, with our resize and anomalib's.

A model of a shipped preset learns for some steps. Then anomalib's engine predicts every test image from its file, and
two ONNX files predict its raw pixels: one as this package exports, and one as anomalib does, whose resize has no
antialiasing in exports. Page: export_parity.md.

    python -m benchmarks.experiments.export_parity [--set FOLDER ...] [--preset laptop_pretrained] [--steps 100]
"""

import argparse
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
from anomalib.data import PredictDataset
from anomalib.data.utils import read_image

from anomalib_anoseg.deploy.runtimes import Form, load_runtime
from benchmarks.common import Row, begin, format_table, make_parser, write_json
from benchmarks.experiments.judging import make_data
from benchmarks.experiments.trainings import make_engine, of_preset

ONNX = Form("onnxruntime", "float32")
OURS, HOSTS = "ours", "anomalib's"
OURS_IS_IN = ("anomalib_anoseg.deploy.export", "anomalib_anoseg.models.self_supervised")


def main() -> None:
    """Train a model on each set, export it in both ways, and count."""
    options = parse_options()
    begin(options)
    rows = [row for folder in options.set or [None] for row in compare(folder, options)]
    write_json(options, rows=rows)
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    print(format_table(lines, markdown=options.markdown, text_columns=3))


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "seed", "set", "weights", "threads", "markdown")
    parser.add_argument("--preset", default="laptop_pretrained")
    parser.add_argument("--steps", type=int, default=100, help="of each training (default: 100)")
    return parser.parse_args()


def compare(folder: Path | None, options: argparse.Namespace) -> list[Row]:
    """Compare both files of one set's model with what anomalib predicts from the files of its test images."""
    model, data = of_preset(options.preset, options.weights, visualizer=False, seed=options.seed), make_data(folder)
    with TemporaryDirectory() as name:
        engine = make_engine(Path(name), max_steps=options.steps, max_epochs=-1)
        engine.fit(model, datamodule=data)
        folders = sorted({Path(path).parent for path in data.test_data.samples.image_path})
        batches: Any = [
            engine.predict(model, dataset=PredictDataset(path), return_predictions=True) for path in folders
        ]
        tested = [item for of_folder in batches for batch in of_folder for item in batch]
        rows = []
        for resize in (HOSTS, OURS):
            with ExitStack() as patches:
                for module in OURS_IS_IN if resize == HOSTS else ():
                    patches.enter_context(patch(f"{module}.use_matrix_resize"))
                path = model.to_onnx(Path(name) / resize)
            rows.append({"set": data.category, "resize": resize} | count(load_runtime(ONNX, path), tested))
    return rows


def count(runtime: Any, tested: list[Any]) -> Row:  # noqa: ANN401
    """Count labels that differ, and measure the largest differences of scores and maps."""
    labels, scores, maps, sizes = 0, 0.0, 0.0, set()
    for item in tested:
        picture: Any = read_image(item.image_path, as_tensor=True)
        raw = picture[None].numpy()
        found = runtime.predict(raw)
        labels += bool(found.pred_label.item() != item.pred_label.item())
        scores = max(scores, abs(found.pred_score.item() - item.pred_score.item()))
        maps = max(maps, float(np.abs(found.anomaly_map.squeeze() - item.anomaly_map.squeeze().numpy()).max()))
        sizes.add(f"{raw.shape[-1]}x{raw.shape[-2]}")
    return {
        "pixels": sizes.pop() if len(sizes) == 1 else f"{len(sizes)} sizes",
        "images": len(tested),
        "labels changed": labels,
        "score, largest difference": f"{scores:.2g}",
        "map, largest difference": f"{maps:.2g}",
    }


if __name__ == "__main__":
    main()
