import os
from pathlib import Path

import pytest

from croc_cli.errors import RecipeError
from croc_cli.recipe.issues import InvalidRecipe
from croc_cli.recipe.yaml_file import read_yaml, write_yaml
from tests.recipe.recipes import child, errors_of, write


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.5e-4", 0.00015),
        (".5", 0.5),
        ("2048", 2048),
        ("1_000", 1000),
        ("-2", -2),
        ("true", True),
        ("null", None),
        ("", None),
        ("no", "no"),
        ("12:00:00", "12:00:00"),
        ("2-00:00:00", "2-00:00:00"),
        ("2024-01-01", "2024-01-01"),
        ("'1e-3'", "1e-3"),
        ("v1.5", "v1.5"),
        ("e5", "e5"),
    ],
)
def test_plain_values_are_read_as_yaml_1_2_does(tmp_path: Path, text: str, value: object) -> None:
    found = read_yaml(write(tmp_path, f"key: {text}"), label="x").values["key"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("value", ["1e-3", "no", "12:00:00", "null", "", "a: b", "γ", [1, "2"], 1e-8, None, {"a": {}}])
def test_what_is_written_reads_back_as_it_was(tmp_path: Path, value: object) -> None:
    path = write(tmp_path, write_yaml({"key": value}))
    assert read_yaml(path, label="x").values == {"key": value}
    assert read_yaml(write(tmp_path, "key: " + write_yaml(value, inline=True)), label="x").values == {"key": value}


def test_every_key_has_its_line(tmp_path: Path) -> None:
    file = read_yaml(write(tmp_path, "a: 1\nb:\n  c: 2\n  d: [1,\n      2]\n  e: 3"), label="x")
    assert file.lines == {("a",): 1, ("b",): 2, ("b", "c"): 3, ("b", "d"): 4, ("b", "e"): 6}


def test_a_key_given_twice_is_an_error(tmp_path: Path) -> None:
    path = child(tmp_path, "align:\n  epochs: 1\n  epochs: 2\nchat: {}\nchat: {}")
    assert errors_of(path) == [
        "mine.yaml:4: align.epochs: given twice, first in line 3",
        "mine.yaml:6: chat: given twice, first in line 5",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2\nb: 3", r"bad\.yaml:2:\d+: not valid YAML: "),
        ("a: b: c", r"bad\.yaml:1:\d+: not valid YAML: "),
        ("a:\n\tb: 1", r"bad\.yaml:2:\d+: not valid YAML: "),
        ("a: !!python/name:os.system ''", r"bad\.yaml:1:\d+: not valid YAML: "),
        ("a: !!python/object:os.system {}", r"bad\.yaml:1:\d+: not valid YAML: "),
        ("a: 1\n---\nb: 2", r"bad\.yaml:\d+:\d+: not valid YAML: "),
        ("a: \x00", r"bad\.yaml"),
        ("", r"bad\.yaml is empty"),
        ("# nothing", r"bad\.yaml is empty"),
        ("- a", r"bad\.yaml holds no keys"),
        ("nano", r"bad\.yaml holds no keys"),
    ],
)
def test_what_is_no_recipe_is_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        read_yaml(write(tmp_path, text), label="bad.yaml")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "line"),
    [("a:\n\tb: 1", 2), ("a:\n  b: 1\n\tc: 2", 3), ("a:\n  \tb: 1\n  c: 2", 2), ("\ta: 1", 1), ("a:\r\n\tb: 1", 2)],
)
def test_a_tab_that_indents_is_told(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(text.encode())
    with pytest.raises(RecipeError, match="not valid YAML") as caught:
        read_yaml(path, label="bad.yaml")
    assert caught.value.hint == f"line {line} is indented with a tab; YAML takes spaces"


def test_a_mapping_inside_itself_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipe, match=r"bad\.yaml:1: a\.b: refers to itself"):
        read_yaml(write(tmp_path, "a: &a\n  b: *a"), label="bad.yaml")


def test_other_than_utf_8_is_told(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"a: \xff")
    with pytest.raises(RecipeError, match=r"bad\.yaml is not UTF-8 text \(byte 3\)"):
        read_yaml(path, label="bad.yaml")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"bad\.yaml cannot be read: a folder, expected a file"):
        read_yaml(tmp_path, label="bad.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 100_000, r"r\.yaml:1: has more than 40 levels"),
        ("- " * 41 + "a", r"r\.yaml:1: has more than 40 levels"),
        ("k: {}\n" * 20_000, r"r\.yaml:\d+: has more than 10,000 values"),
        (
            "a: &a [" + "x, " * 300 + "]\nb: &b [" + "*a, " * 300 + "]",
            r"r\.yaml: its aliases stand for more than 10,000",
        ),
        ("a: " + "x" * (1 << 20), r"r\.yaml has more than 1,048,576 bytes"),
        ("a: !!int abc", r"r\.yaml:1:4: not valid YAML: 'abc' cannot be read as int"),
        ("a: !!bool maybe", r"'maybe' cannot be read as bool"),
        ("a: " + "9" * 5000, r"cannot be read as int"),
        ("a: !!timestamp 2020-99-99", r"the tag tag:yaml.org,2002:timestamp has no place"),
        ("a: !!binary x", r"the tag tag:yaml.org,2002:binary has no place"),
        ("a: &a [*a]", r"refers to itself"),
    ],
    ids=range(11),
)
def test_bombs_depth_and_bad_scalars_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        read_yaml(tmp_path / "r.yaml", label="r.yaml")
    assert "\n" not in str(caught.value)


def test_a_pipe_is_no_recipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "r.yaml")
    with pytest.raises(RecipeError, match=r"r\.yaml cannot be read: a pipe, expected a file"):
        read_yaml(tmp_path / "r.yaml", label="r.yaml")
