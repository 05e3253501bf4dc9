"""Presets are found by name, read with the files that they name, and changed one setting at a time."""

from itertools import combinations
from pathlib import Path

import pytest
import yaml

from anomalib_anoseg.cli.main import main
from anomalib_anoseg.common.presets import find_preset, list_presets, merge, read_preset

ROOT = Path(__file__).parents[2]


def test_every_preset_has_a_line_that_says_what_it_is_for():
    presets = list_presets()
    assert {"laptop", "laptop_pretrained", "published", "demo", "sgsf_laptop", "sgsf_published"} <= presets.keys()
    assert all(len(line) > 20 and line[0].isupper() for line in presets.values())
    assert not [name for name in presets if name.startswith("blocks")]


def test_files_within_files_are_read():
    init_args = read_preset("laptop")["model"]["init_args"]
    assert init_args["patches"]["count"] == 3
    assert init_args["network"]["width"] == pytest.approx(0.25)


def groups_of(value):
    """All mappings within a mapping or list."""
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from [item] if isinstance(item, dict) else []
        yield from groups_of(item)


@pytest.mark.parametrize("folder", [ROOT / "configs", ROOT / "benchmarks" / "board"], ids=lambda path: path.name)
def test_no_block_of_settings_stands_twice(folder):
    groups = [
        {(name, str(value)) for name, value in group.items() if not isinstance(value, dict)}
        for path in folder.rglob("*.yaml")
        if path.parent.name != "data"  # classes of their own, which share some arguments
        for group in groups_of({"": yaml.safe_load(path.read_text())})
    ]
    assert groups
    twice = [first & second for first, second in combinations(groups, 2) if len(first & second) > 3]
    assert not twice


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


def test_command_lists_all_with_a_line_each(capsys):
    assert run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(list_presets())
    assert max(map(len, lines)) <= 80


def test_command_refuses_what_there_is_not(capsys):
    assert run("desktop") == 2
    assert "There is no preset 'desktop'. Take one of" in capsys.readouterr().err
