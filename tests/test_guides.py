"""The guides are short, their links lead somewhere, and their snippets run."""

import re
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from pathlib import Path

import numpy as np
import openvino
import pytest
from anomalib.cli import AnomalibCLI
from anomalib.deploy import CompressionType
from anomalib.engine import Engine
from PIL import Image

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.cli.inspect import make_parser
from anomalib_anoseg.common.presets import find_preset
from anomalib_anoseg.deploy.forms import export_forms
from anomalib_anoseg.deploy.runtimes import Form, load_runtime

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "anomalib_anoseg"
FOR_INTEGRATORS = PACKAGE / "deploy" / "README.md"
TO_INSPECTIONS = PACKAGE / "deploy" / "inspection" / "README.md"
MAX_LINES = {
    ROOT / "README.md": 150,
    PACKAGE / "README.md": 120,
    PACKAGE / "board" / "README.md": 100,
    FOR_INTEGRATORS: 230,
    TO_INSPECTIONS: 130,
    PACKAGE / "models" / "anoseg" / "README.md": 150,
    PACKAGE / "models" / "sgsf" / "README.md": 150,
}
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# The host prints its general guide for these words; `--model.help AnoSeg` lists the settings.
WRONG_HELP = re.compile(r"--model \w+ --help")


def list_pages() -> list[Path]:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        pages = [ROOT / name for name in listed.splitlines()]
    except (OSError, subprocess.CalledProcessError):  # no clone
        folders = [ROOT / name for name in ("anomalib_anoseg", "benchmarks", "configs")]
        pages = [*ROOT.glob("*.md"), *(page for folder in folders for page in folder.rglob("*.md"))]
    return sorted(page for page in pages if page.exists())


PAGES = list_pages()


def blocks_of(page: Path, kind: str) -> list[str]:
    return [code for found, code in BLOCK.findall(page.read_text(encoding="utf-8")) if found == kind]


def commands_of(page: Path) -> list[str]:
    return "".join(blocks_of(page, "bash")).replace("\\\n", " ").splitlines()


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchor(heading: str) -> str:
    """The name that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def anchors_of(page: Path) -> set[str]:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", MAX_LINES, ids=name_of)
def test_guides_are_short(page):
    assert len(page.read_text(encoding="utf-8").splitlines()) <= MAX_LINES[page]


def test_readme_has_at_most_1500_words():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1500


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page):
    broken = []
    for target in LINK.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (fragment and file.suffix == ".md" and fragment not in anchors_of(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_name_the_command_that_lists_all_settings(page):
    assert not WRONG_HELP.search(page.read_text(encoding="utf-8"))


def test_readme_holds_the_test_command_that_ci_reads():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    after = readme.partition("<!-- test command -->\n")[2]
    assert re.match(r"```bash\npython3 .*pytest.*\n```", after)


# ---------------------------------------------------------------------------------------------------- for integrators


@pytest.fixture(scope="module")
def shipped(demo_checkpoint, tmp_path_factory) -> Path:
    """A folder with a small model as ONNX and OpenVINO files, and a picture."""
    folder = tmp_path_factory.mktemp("shipped")
    model = AnoSeg.load_from_checkpoint(demo_checkpoint, weights_only=True, map_location="cpu")
    forms = [Form("onnxruntime", "float32"), Form("openvino", "FP32")]
    files, left_out = export_forms(model, folder / "results", None, list, forms)
    assert not left_out
    for exported in files.values():
        shutil.copytree(exported.parent, folder, dirs_exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (80, 112, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "part.png")
    return folder


@pytest.fixture(scope="module")
def snippets() -> dict[str, str]:
    """The page's Python, by the library that it uses; the others build on that for OpenVINO."""
    imports = ("onnxruntime", "openvino", "threading")
    blocks = blocks_of(FOR_INTEGRATORS, "python")
    found = {next((name for name in imports if f"import {name}" in code), "rate"): code for code in blocks}
    assert len(found) == len(blocks) == len(imports) + 1
    before, _, verdict = found["openvino"].rpartition("\n\n")
    picture, _, _ = before.rpartition("\n\n")
    return found | {"onnxruntime": "\n".join((picture, found["onnxruntime"], verdict))}


def run(snippet: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **names) -> dict:
    monkeypatch.chdir(folder)
    exec(compile(snippet, "snippet", "exec"), names)
    return names


def test_snippets_for_integrators_run_and_keep_the_contract(shipped, snippets, monkeypatch, capsys):
    in_onnx, in_openvino = (run(snippets[name], shipped, monkeypatch) for name in ("onnxruntime", "openvino"))
    printed = capsys.readouterr().out.split()
    assert printed.count("normal") + printed.count("anomalous") == 2
    for names in (in_onnx, in_openvino):
        result = names["result"]
        assert list(result) == ["pred_score", "pred_label", "anomaly_map", "pred_mask"]
        assert [value.dtype for value in result.values()] == [np.float32, bool, np.float32, bool]
        assert [value.shape for value in result.values()] == [(1,), (1,), (1, 1, 64, 64), (1, 1, 64, 64)]
        assert 0 <= result["anomaly_map"].min() <= result["anomaly_map"].max() <= 1
        assert result["pred_label"] == (result["pred_score"] > 0.5)
        assert np.array_equal(result["pred_mask"], result["anomaly_map"] > 0.5)
    for name in ("pred_score", "anomaly_map"):
        assert np.allclose(in_onnx["result"][name], in_openvino["result"][name], atol=1e-3)
    assert in_onnx["record"] == in_openvino["record"]
    metadata, name = in_onnx["session"].get_modelmeta().custom_metadata_map, "anomalib_anoseg.image_threshold"
    threshold = float(in_openvino["model"].get_rt_info(["framework", name]).astype(str))
    assert float(metadata[name]) == pytest.approx(threshold) == in_onnx["record"]["thresholds"]["image"]["raw"]


def test_one_line_changes_the_rate_of_false_alarms(shipped, snippets, monkeypatch, capsys):
    names = run(snippets["onnxruntime"], shipped, monkeypatch)
    names |= run(snippets["rate"], shipped, monkeypatch, **names)
    assert "25.0% of good parts, between 0.0% and 70.8%" in capsys.readouterr().out, "three pictures are held out"
    assert names["label"] == (names["result"]["pred_score"] > names["record"]["operating_points"][0]["image_score"])
    assert names["mask"].shape == (1, 1, 64, 64)
    page = FOR_INTEGRATORS.read_text(encoding="utf-8")
    assert [name for name in (*names["record"], *names["point"]) if f"`{name}`" not in page] == []


def test_cpp_snippet_says_what_python_says(shipped, tmp_path):
    """Compiled against the headers in OpenVINO's Python package; the picture is a PPM file, whatever its name."""
    package, compiler = Path(openvino.__file__).parent, shutil.which("g++")
    library = next(package.glob("libs/libopenvino.so*"), None)
    if compiler is None or library is None or not (package / "include" / "openvino" / "openvino.hpp").is_file():
        pytest.skip("no g++, or a package of OpenVINO without headers")
    programs = blocks_of(FOR_INTEGRATORS, "cpp")
    (tmp_path / "main.cpp").write_text(next(code for code in programs if "openvino.hpp" in code))
    (tmp_path / "opencv2").mkdir()
    for name in ("dnn.hpp", "imgcodecs.hpp"):
        (tmp_path / "opencv2" / name).write_text(f'#pragma once\n#include "{ROOT / "tests" / "opencv_stand_in.hpp"}"\n')
    folders = [f"-I{tmp_path}", f"-I{package / 'include'}", f"-Wl,-rpath,{library.parent}"]
    options = ["-std=c++17", *folders, "main.cpp", str(library), "-Wl,--allow-shlib-undefined", "-o", "main"]
    subprocess.run([compiler, *options], cwd=tmp_path, check=True)
    for file in (shipped / "model.xml", shipped / "model.bin"):
        shutil.copy(file, tmp_path)
    with Image.open(shipped / "part.png") as picture:
        picture.save(tmp_path / "part.png", "PPM")
        pixels = np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 255
    wanted = load_runtime(Form("openvino", "FP32"), tmp_path / "model.xml").predict(pixels)
    said = subprocess.run([tmp_path / "main"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    verdict, score, *others = said.replace(",", "").split()
    assert verdict == ("anomalous" if wanted.pred_label[0] else "normal")
    assert float(score) == pytest.approx(wanted.pred_score[0], abs=1e-4)
    assert " ".join(others[:5]) == "map of 64 x 64"


def test_commands_for_integrators_export_as_printed(monkeypatch, tmp_path):
    """Up to where anomalib would export: the arguments are understood, and INT8 gets its pictures."""
    exports = []
    original = Engine.export
    monkeypatch.setattr(Engine, "export", wraps(original)(lambda _, **arguments: exports.append(arguments)))
    monkeypatch.chdir(tmp_path)
    path = r'"\$\(anomalib-anoseg config (\w+)\)"'
    for line in commands_of(FOR_INTEGRATORS):
        command = re.sub(rf'"\$\(cat {path}\)"', lambda name: shlex.quote(find_preset(name[1]).read_text()), line)
        command = re.sub(path, lambda name: shlex.quote(str(find_preset(name[1]))), command)
        words = shlex.split(command, comments=True)
        if words[:1] == ["anomalib"]:
            AnomalibCLI(words[1:])
    plain, int8 = exports
    assert plain.get("datamodule") is None
    assert int8["compression_type"] == CompressionType.INT8_PTQ
    assert int8["datamodule"].val_split_mode == "from_train"
    assert str(int8["datamodule"].normal_dir) == "good"


def test_threads_of_integrators_do_not_get_each_others_maps(shipped, snippets, monkeypatch):
    names = run(snippets["openvino"], shipped, monkeypatch)
    names |= run(snippets["threading"], shipped, monkeypatch, **names)
    assert len(names["results"]) == 64
    batches = [np.roll(names["batch"], 40 * turn, -1) for turn in range(3)]
    expected = [names["predict"](batch)["anomaly_map"] for batch in batches]
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(names["predict"], batches * 64))
    for turn, result in enumerate(results):
        np.testing.assert_array_equal(result["anomaly_map"], expected[turn % 3])


def test_the_page_for_integrators_names_every_field():
    from anomalib_anoseg.deploy.metadata import FIELDS

    page = FOR_INTEGRATORS.read_text(encoding="utf-8")
    assert [name for name in FIELDS if f"`{name}`" not in page] == []


def test_the_guide_to_inspections_holds_its_command_and_names_every_option():
    parser, page = make_parser(), TO_INSPECTIONS.read_text(encoding="utf-8")
    commands = [shlex.split(line, comments=True) for line in commands_of(TO_INSPECTIONS)]
    (command,) = (words[2:] for words in commands if words[:2] == ["anomalib-anoseg", "inspect"])
    assert parser.parse_args(command).out == Path("results")
    options = [option for action in parser._actions for option in action.option_strings]
    assert [name for name in options if f"`{name}" not in page] == ["-h", "--help"]
