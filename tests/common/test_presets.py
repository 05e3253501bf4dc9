"""Presets are found by name, read with the files that they name, and changed one setting at a time."""

import pytest
import yaml

from anomalib_anoseg.cli.main import main
from anomalib_anoseg.common.presets import find_preset, list_presets, merge, preset_folder, read_preset


def test_every_preset_has_a_line_that_says_what_it_is_for():
    presets = list_presets()
    assert {"laptop", "laptop_pretrained", "published", "demo", "sgsf_laptop", "sgsf_published"} <= presets.keys()
    assert all(len(line) > 20 and line[0].isupper() for line in presets.values())
    assert not [name for name in presets if name.startswith("blocks")]


def test_files_within_files_are_read():
    init_args = read_preset("laptop")["model"]["init_args"]
    assert init_args["patches"]["count"] == 3
    assert init_args["network"]["width"] == pytest.approx(0.25)


def test_no_block_of_settings_stands_twice():
    blocks = []
    for path in preset_folder().rglob("*.yaml"):
        settings = yaml.safe_load(path.read_text())
        model = settings.get("model", settings) if isinstance(settings, dict) else {}
        groups = model.get("init_args", {}) if isinstance(model, dict) else {}
        blocks += [str(group) for group in groups.values() if isinstance(group, dict) and len(group) > 3]
    assert len(blocks) == len(set(blocks))


def test_the_last_part_of_a_name_will_do():
    assert find_preset("folder_normal_only") == find_preset("data/folder_normal_only")
    with pytest.raises(ValueError, match=r"There is no preset 'desktop'\. Take one of .*laptop"):
        find_preset("desktop")


def test_merging_leaves_both_as_they_were():
    settings, changes = {"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4}
    assert merge(settings, changes) == {"a": {"b": 3, "c": 2}, "d": 4}
    assert (settings, changes) == ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4})


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["config", *arguments])
    return stopped.value.code


def test_command_prints_a_path_that_a_shell_can_use(capsys):
    assert run("laptop") == 0
    assert capsys.readouterr().out == f"{find_preset('laptop')}\n"


def test_command_lists_all(capsys):
    assert run() == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in list_presets())


def test_command_refuses_what_there_is_not(capsys):
    assert run("desktop") == 2
    assert "There is no preset 'desktop'. Take one of" in capsys.readouterr().err
