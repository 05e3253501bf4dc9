"""The unmodified ``anomalib`` command and ``get_model`` find installed models; nothing else in the process changes.

Every test starts fresh interpreters. Those that ask how registration treats odd packages run against a host of a few
lines (``fake_host``), which starts in milliseconds; the real host takes seconds and is started as rarely as possible.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import anomalib_anoseg

try:
    metadata.distribution("anomalib-anoseg")
except metadata.PackageNotFoundError:
    pytest.fail("anomalib-anoseg is not installed in this environment; run `pip install -e .`", pytrace=False)

PACKAGE = Path(anomalib_anoseg.__file__).parent
CONSOLE_SCRIPT = Path(sys.executable).with_name("anomalib.exe" if os.name == "nt" else "anomalib")

FAKE_HOST = """
from anomalib.base import AnomalibModule
class Padim(AnomalibModule): pass
ALLOWED_MODULES = {"anomalib.models"}
__all__ = ["Padim"]
"""
MODEL = "from anomalib.models import AnomalibModule\nclass {name}(AnomalibModule): pass\n"


def run(*command, path=None, **environment):
    """Run a command in a fresh process, outside the repository and with ``path`` first on ``sys.path``."""
    environment = os.environ | {"PYTHONPATH": str(path or ""), "PYTHONWARNINGS": "ignore"} | environment
    environment.setdefault("COLUMNS", "200")
    return subprocess.run(
        [str(part) for part in command],
        env=environment,
        cwd=path or Path.home(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def python(code, path=None, **environment):
    """Return what the code printed, as JSON, and the plug-in's lines on stderr."""
    process = run(sys.executable, "-c", code, path=path, **environment)
    assert process.returncode == 0, process.stderr
    printed = json.loads(process.stdout.splitlines()[-1]) if process.stdout else None
    return printed, complaints(process)


def printed_in_fork(process):
    """Return what code printed, as ``python`` does."""
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1]), complaints(process)


def complaints(process):
    return [line for line in process.stderr.splitlines() if "anomalib-anoseg" in line]


def write_package(folder, module, source, *models, requires=""):
    """Write an installed distribution: a module and the metadata that declares its models."""
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n{requires}")
    lines = [f"{model} = {module}:{model}" for model in models]
    (info / "entry_points.txt").write_text("\n".join(["[anomalib.models]", *lines]))


@pytest.fixture
def fake_host(tmp_path):
    """A folder with a host of a few lines, in which no package declares models until the test writes one."""
    models = tmp_path / "anomalib" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").write_text('__version__ = "2.7.0"')
    (models.parent / "base.py").write_text("class AnomalibModule: pass")
    (models / "__init__.py").write_text(FAKE_HOST)
    # importlib.metadata takes the first distribution of a name: this one hides ours, whose import takes seconds.
    write_package(tmp_path, "anomalib_anoseg", "")
    (tmp_path / "anomalib_anoseg.py").unlink()
    return tmp_path


# ----------------------------------------------------------------------------------------------- interpreter start


def test_interpreter_start_loads_neither_torch_nor_anomalib():
    code = """
import json, sys
roots = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([name for name in ("anomalib_anoseg", "anomalib", "torch", "importlib", "typing") if name in roots]))
"""
    assert python(code) == (["anomalib_anoseg"], [])


def test_hook_imports_nothing_that_the_interpreter_has_not_loaded():
    code = """
import os, sys
before = set(sys.modules)
import anomalib_anoseg._autoload
added = sorted(set(sys.modules) - before)
import json
print(json.dumps(added))
"""
    process = run(sys.executable, "-S", "-c", code, path=PACKAGE.parent)  # -S: no .pth file has been read yet
    assert json.loads(process.stdout) == ["anomalib_anoseg", "anomalib_anoseg._autoload"]


def test_switched_off_leaves_no_finder(fake_host):
    write_package(fake_host, "foreign", MODEL.format(name="Foreign"), "Foreign")
    code = """
import json, sys
finders = [type(finder).__module__ for finder in sys.meta_path]
import anomalib.models
print(json.dumps(["anomalib_anoseg._autoload" in finders, hasattr(anomalib.models, "Foreign")]))
"""
    assert python(code, fake_host) == ([True, True], [])
    assert python(code, fake_host, ANOMALIB_ANOSEG_AUTOLOAD="0") == ([False, False], [])


def test_without_anomalib_its_absence_is_reported_as_ever(tmp_path):
    (tmp_path / "anomalib.py").write_text("")  # a module, thus without "models"
    code = """
try: import anomalib.models
except ModuleNotFoundError as error: print('"%s"' % error)
"""
    assert python(code, tmp_path) == ("No module named 'anomalib.models'; 'anomalib' is not a package", [])


# ------------------------------------------------------------------------------------------------- the import hook


def test_hook_leaves_no_trace(fake_host):
    write_package(fake_host, "foreign", MODEL.format(name="Foreign"), "Foreign")
    code = """
import importlib, importlib.resources, importlib.util, inspect, json, sys
spec = importlib.util.find_spec("anomalib.models")  # finding is not importing: nothing is registered yet
assert "class Padim" in spec.loader.get_source("anomalib.models") and "foreign" not in sys.modules
import anomalib.models as host
assert all(not type(finder).__module__.startswith("anomalib") for finder in sys.meta_path)
assert type(host.__spec__.loader) is type(host.__loader__) is type(json.__loader__)
assert "class Padim" in inspect.getsource(host)
assert importlib.resources.files("anomalib.models").joinpath("__init__.py").is_file()
assert importlib.reload(host) is host and host.__all__ == ["Padim"]
from anomalib_anoseg._autoload.registration import register
assert register() == register() == ["Foreign"] and host.__all__ == ["Padim", "Foreign"]
"""
    assert python(code, fake_host) == (None, [])


def test_failed_host_import_is_raised_and_may_be_repeated(fake_host):
    write_package(fake_host, "foreign", MODEL.format(name="Foreign"), "Foreign")
    (fake_host / "anomalib/models/__init__.py").write_text("import not_yet_there\n" + FAKE_HOST)
    code = """
import pathlib
try: import anomalib.models
except ModuleNotFoundError as error: assert error.name == "not_yet_there"
pathlib.Path("not_yet_there.py").touch()
import importlib
importlib.invalidate_caches()
from anomalib.models import Foreign
"""
    assert python(code, fake_host) == (None, [])


def test_finders_of_other_tools_are_asked_too(fake_host):
    code = """
import json, sys
class Legacy:  # from before PEP 451: importlib passes over it or, until Python 3.11, calls find_module
    def find_module(self, name, path=None): pass
class Recorder:
    asked = []
    def find_spec(self, name, path=None, target=None): self.asked.append(name)
sys.meta_path[:0] = [Legacy()]
ours = next(i for i, finder in enumerate(sys.meta_path) if type(finder).__module__ == "anomalib_anoseg._autoload")
sys.meta_path.insert(ours + 1, Recorder())
import anomalib.models
print(json.dumps(Recorder.asked.count("anomalib.models")))
"""
    assert python(code, fake_host) == (1, [])


# -------------------------------------------------------------------------------------------------- odd packages


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            "import missing_dependency",
            "ModuleNotFoundError: No module named 'missing_dependency'; other models are not",
        ),
        ("raise OSError('two\\nlines')", "OSError: two lines; other models are not affected"),
        ("raise SystemExit(3)", "SystemExit: 3; other models are not affected (`python -c 'import odd'` shows"),
        ("", "AttributeError: module 'odd' has no attribute 'Odd'; other models are not affected"),
        ("class Odd: pass", "does not derive from AnomalibModule directly"),
        ("Odd = 1", "1 does not derive from AnomalibModule directly"),
        ("from anomalib.models import Padim\nclass Odd(Padim): pass", "does not derive from AnomalibModule directly"),
    ],
)
def test_odd_model_costs_one_line(fake_host, source, says):
    write_package(fake_host, "odd", source, "Odd")
    write_package(fake_host, "zoo", MODEL.format(name="Zoo"), "Zoo")
    code = """
import json, anomalib.models as host
print(json.dumps([host.__all__, sorted(host.ALLOWED_MODULES), hasattr(host, "Odd")]))
"""
    printed, lines = python(code, fake_host)
    players = ["anomalib_anoseg", "anomalib_anoseg.board", "anomalib_anoseg.board.baselines"]
    assert printed == [["Padim", "Zoo"], ["anomalib.models", *players, "zoo"], False]
    assert len(lines) == 1
    assert lines[0].startswith("anomalib-anoseg: could not register Odd of odd: ")
    assert says in lines[0]


def test_taken_name_stays_with_its_owner(fake_host):
    write_package(fake_host, "greedy", MODEL.format(name="Padim"), "Padim")
    code = """
import json, sys, anomalib.models as host
print(json.dumps([host.Padim.__module__, "greedy" in sys.modules]))
"""
    printed, lines = python(code, fake_host)
    assert printed == ["anomalib.models", False]  # not even loaded: get_model would take the last class of that name
    assert len(lines) == 1
    assert "anomalib.models.Padim is already <class 'anomalib.models.Padim'>, which stays" in lines[0]


def test_unsupported_version_of_anomalib_is_named_with_the_supported_range(fake_host):
    (fake_host / "anomalib/__init__.py").write_text('__version__ = "3.0.0"')
    shutil.rmtree(fake_host / "anomalib_anoseg-1.0.dist-info")  # now the metadata of our own package counts
    _, (line,) = python("import anomalib.models", fake_host)
    assert line.startswith(
        "anomalib-anoseg: could not register AnoSeg of anomalib_anoseg.models.anoseg.lightning_model: "
    )
    assert "its package supports anomalib<3,>=2.7, but this is anomalib 3.0.0; run `pip install" in line


@pytest.mark.parametrize(("version", "supported"), [("2.8.0.dev1", True), ("2.8.1", True), ("2.6.9", False)])
def test_range_of_a_foreign_package_counts_for_its_models(fake_host, version, supported):
    (fake_host / "anomalib/__init__.py").write_text(f'__version__ = "{version}"')
    requires = "Requires-Dist: torch\nRequires-Dist: Anomalib>=2.7\nRequires-Dist: anomalib<2; extra == 'old'\n"
    write_package(fake_host, "zoo", MODEL.format(name="Zoo"), "Zoo", requires=requires)
    printed, lines = python('import anomalib.models as m; print(str(hasattr(m, "Zoo")).lower())', fake_host)
    assert printed is supported
    assert len(lines) == (not supported)


@pytest.mark.parametrize("change", ["del ALLOWED_MODULES", "ALLOWED_MODULES = ()"])
def test_host_without_allowed_modules_keeps_the_name(fake_host, change):
    (fake_host / "anomalib/models/__init__.py").write_text(f"{FAKE_HOST}\n{change}")
    write_package(fake_host, "zoo", MODEL.format(name="Zoo"), "Zoo")
    _, (line,) = python("from anomalib.models import Zoo", fake_host)
    assert "no set anomalib.models.ALLOWED_MODULES, so get_model accepts the name but no class_path" in line


def test_broken_registration_does_not_reach_the_user(fake_host):
    (fake_host / "packaging.py").write_text("")  # has no "requirements"
    _, (line,) = python("import anomalib.models", fake_host)
    assert line.startswith("anomalib-anoseg: registered no models: ModuleNotFoundError: No module named 'packaging.req")


# -------------------------------------------------------------------------------------------------- the real host


@pytest.fixture(scope="module")
def other_packages(tmp_path_factory):
    """A folder with a foreign model that works and another that does not."""
    folder = tmp_path_factory.mktemp("packages")
    source = """
from anomalib.models import AnomalibModule, Padim
class Foreign(AnomalibModule):
    def __init__(self, width: int = 3):
        super().__init__(pre_processor=False, post_processor=False, evaluator=False, visualizer=False)
        self.width = width
    learning_type = Padim.learning_type
    trainer_arguments = {}
"""
    write_package(folder, "foreign", source, "Foreign")
    write_package(folder, "broken", "import missing_dependency", "Broken")
    return folder


@pytest.fixture(scope="module")
def get_model(other_packages, fork):
    """What ``get_model`` returns for many ways to name a model, from one process."""
    code = """
import json
from anomalib.models import get_model, list_models
from anomalib.data import get_datamodule
forms = ["AnoSeg", "anoseg", "ano_seg", "Foreign", {"class_path": "AnoSeg"}, {"class_path": "anomalib.models.AnoSeg"},
         {"class_path": "anomalib_anoseg.AnoSeg"}, {"class_path": "anomalib_anoseg.models.anoseg.AnoSeg"},
         {"class_path": "anomalib_anoseg.models.anoseg.lightning_model.AnoSeg"}, {"class_path": "foreign.Foreign"}]
classes = {json.dumps(form): type(get_model(form)).__name__ for form in forms}
small = {"network": {"width": 0.125}}
classes |= {name: type(get_model(name, **small)).__name__ for name in ("SGSF", "sgsf", "s_g_s_f")}
full_path = "anomalib_anoseg.models.sgsf.lightning_model.SGSF"
for path in ("SGSF", "anomalib.models.SGSF", "anomalib_anoseg.SGSF", full_path):
    classes[path + " in a dict"] = type(get_model({"class_path": path, "init_args": small})).__name__
classes["padim"] = type(get_model("padim", pre_trained=False)).__name__
width = get_model({"class_path": "foreign.Foreign", "init_args": {"width": 5}}).width
data = get_datamodule({"class_path": "DemoTextures", "init_args": {"image_size": 64}})
print(json.dumps([classes, width, sorted(list_models()), [type(data).__module__, data.image_size]]))
"""
    return printed_in_fork(fork("-c", code, cwd=other_packages, path=[other_packages], PYTHONWARNINGS="ignore"))


def test_get_model_takes_every_way_to_name_a_model(get_model):
    (classes, width, listed, _), _ = get_model
    expected = {form: "Foreign" if "Foreign" in form else "AnoSeg" for form in classes} | {"padim": "Padim"}
    expected |= {form: "SGSF" for form in classes if "sgsf" in form.lower().replace("_", "")}
    assert sum(name == "SGSF" for name in classes.values()) == 7
    assert classes == expected
    assert width == 5
    assert {"ano_seg", "foreign", "padim", "s_g_s_f"} <= set(listed)  # as anomalib writes names in capitals


def test_broken_package_is_reported_once(get_model):
    _, lines = get_model
    assert len(lines) == 1
    assert lines[0].startswith("anomalib-anoseg: could not register Broken of broken: ModuleNotFoundError: ")


def test_datamodules_are_known_to_the_benchmark_by_name(get_model):
    (*_, data), _ = get_model
    assert data == ["anomalib_anoseg.data.demo_textures", 64]


def test_what_is_no_datamodule_is_refused():
    from importlib.metadata import EntryPoint

    from anomalib_anoseg._autoload.registration import DATA_GROUP, RegistrationError, _register_datamodule

    with pytest.raises(RegistrationError, match=r"<class 'pathlib\..*Path'> does not derive from AnomalibDataModule"):
        _register_datamodule(None, EntryPoint("Path", "pathlib:Path", DATA_GROUP))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to repeat the imports without starting over each time")
def test_whatever_is_imported_first_the_model_is_registered():
    code = """
import gc, json, os, pkgutil, sys
gc.disable()
import anomalib_anoseg.models.anoseg  # loads torch and the like once; only what is tested is forgotten below
gc.freeze()
modules = [module for module in pkgutil.walk_packages(anomalib_anoseg.__path__, "anomalib_anoseg.")]
# Of the rooms that no model imports, the rooms alone: nothing in them can be half imported when a model needs it.
apart = ("board", "cli", "data")
modules = [module.name for module in modules if module.ispkg or module.name.split(".")[1] not in apart]
first = ["from anomalib_anoseg import AnoSeg", "from anomalib_anoseg.models.anoseg import AnoSeg",
         "from anomalib_anoseg import SGSF", "from anomalib_anoseg.models.sgsf import SGSF",
         "from anomalib.models import AnoSeg", "import anomalib.engine", "import anomalib.cli"]
first += ["import " + module for module in modules]
failed = []

class Asked(BaseException): pass

class Host:  # asked before all others
    def find_spec(name, path=None, target=None):
        if name == "anomalib":
            raise Asked

def forget():
    for module in [name for name in sys.modules if name.partition(".")[0] in ("anomalib", "anomalib_anoseg")]:
        del sys.modules[module]
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "anomalib_anoseg._autoload"]
    import anomalib_anoseg._autoload

for statement in first:
    forget()
    sys.meta_path.insert(0, Host)
    try:
        exec(statement)
        continue  # nothing is half imported when the host is
    except Asked:
        forget()
    finally:
        sys.meta_path.remove(Host)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            exec(statement)
            if "anomalib.models" in sys.modules:  # else it comes when all of the statement is done
                import anomalib_anoseg
                from anomalib.models import AnoSeg, SGSF
                assert (AnoSeg, SGSF) == (anomalib_anoseg.AnoSeg, anomalib_anoseg.SGSF)
            status = 0
        finally:
            os._exit(status)
    if os.waitpid(child, 0)[1]:
        failed.append(statement)
print(json.dumps([failed, modules]))
"""
    (failed, modules), lines = python(code)
    assert (failed, lines) == ([], [])
    assert "anomalib_anoseg.models.anoseg.lightning_model" in modules


# ---------------------------------------------------------------------------------------------- the console script


def test_command_knows_the_bare_name(fork, tmp_path):
    process = fork(CONSOLE_SCRIPT, "train", "--model", "AnoSeg", "--print_config", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "class_path: anomalib_anoseg.AnoSeg" in process.stdout
    assert complaints(process) == []


def test_command_knows_the_dotted_path_even_when_switched_off(fork, tmp_path):
    command = (CONSOLE_SCRIPT, "train", "--model", "anomalib_anoseg.AnoSeg", "--print_config")
    process = fork(*command, cwd=tmp_path, ANOMALIB_ANOSEG_AUTOLOAD="0")
    assert process.returncode == 0, process.stderr
    assert "class_path: anomalib_anoseg.AnoSeg" in process.stdout


def test_command_shows_what_could_not_be_registered(other_packages, fork):
    process = fork(CONSOLE_SCRIPT, "--help", cwd=other_packages, path=[other_packages])
    assert process.returncode == 0, process.stderr
    assert "benchmark" in process.stdout
    assert len(complaints(process)) == 1


def test_players_of_boards_are_reached_by_their_path_alone(tmp_path, fork):
    code = """
import json
from anomalib.models import get_model, list_models
before = sorted(list_models("pascal"))
path = "anomalib_anoseg.board.baselines.ConstantMap"
print(json.dumps([before, type(get_model({"class_path": path})).__name__]))
"""
    write_package(tmp_path, "anomalib_anoseg", "")
    (tmp_path / "anomalib_anoseg.py").unlink()
    shutil.copytree(PACKAGE, tmp_path / "anomalib_anoseg")
    info = tmp_path / "anomalib_anoseg-1.0.dist-info" / "entry_points.txt"
    info.write_text("[anomalib.models]\nAnoSeg = anomalib_anoseg.models.anoseg.lightning_model:AnoSeg\n")
    (known, found), complaints_ = printed_in_fork(fork("-c", code, cwd=tmp_path, path=[tmp_path]))
    assert not complaints_
    assert "AnoSeg" in known
    assert not {"ConstantMap", "ImageStatistics", "LocalDraem", "PadimLite0"} & set(known)
    assert found == "ConstantMap"
