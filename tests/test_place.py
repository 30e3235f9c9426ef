import os
from pathlib import Path

import pytest

from croc_cli.errors import UsageError
from croc_cli.place import LIST_NAME, check_place, claim_run, growing_file, growing_folder, put_text, remove_made
from croc_cli.run_dir import RunDir, write_json


def make_mix(folder: Path, text: str) -> None:
    with growing_folder(folder, kind="mix", later=("lengths",)) as growing:
        (growing / "rows.jsonl").write_text(text)


def test_a_folder_of_crocs_is_replaced_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    make_mix(tmp_path / "m", "old")
    (tmp_path / "m" / "lengths").mkdir()
    (tmp_path / "m" / "lengths" / "a.npy").touch()
    make_mix(tmp_path / "m", "new")
    assert (tmp_path / "m" / "rows.jsonl").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["m"]
    assert sorted(os.listdir(tmp_path / "m")) == [LIST_NAME, "rows.jsonl"]


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "link", "dangling link", "another kind"])
def test_what_croc_did_not_make_stays_and_is_named(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "m"
    if kind == "folder":
        place.mkdir()
        (place / "photo.jpg").write_text("mine")
    elif kind == "empty folder":
        place.mkdir()
    elif kind == "file":
        place.write_text("mine")
    elif kind == "link":
        make_mix(tmp_path / "elsewhere", "mine")
        place.symlink_to("elsewhere")
    elif kind == "dangling link":
        place.symlink_to("nowhere")
    else:
        with growing_folder(place, kind="report"):
            pass
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=r"/m is a (folder|file|link) that croc did not make"):
        make_mix(place, "new")
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_users_file_in_a_folder_of_crocs_stays(tmp_path: Path) -> None:
    make_mix(tmp_path / "m", "old")
    (tmp_path / "m" / "images").mkdir()
    (tmp_path / "m" / "images" / "photo.jpg").write_text("mine")
    with pytest.raises(UsageError, match=r"m/images/photo\.jpg is not croc's, and would be lost"):
        make_mix(tmp_path / "m", "new")
    assert (tmp_path / "m" / "rows.jsonl").read_text() == "old"


def test_what_comes_to_lie_there_while_a_folder_grows_stays(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did not make"), growing_folder(tmp_path / "m", kind="mix"):
        (tmp_path / "m").write_text("mine")
    assert sorted(os.listdir(tmp_path)) == ["m"]


def test_a_mix_from_before_there_was_a_list_is_known_by_its_manifest(tmp_path: Path) -> None:
    old = tmp_path / "m"
    old.mkdir()
    write_json(old / "manifest.json", {"order_sha256": "x", "made_with": "0.1"})
    (old / "rows.jsonl").touch()
    check_place(old, kind="mix")
    (old / "photo.jpg").touch()
    with pytest.raises(UsageError, match=r"photo\.jpg is not croc's"):
        check_place(old, kind="mix")


def test_a_failed_write_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    make_mix(tmp_path / "m", "old")
    with pytest.raises(ZeroDivisionError), growing_folder(tmp_path / "m", kind="mix"):
        raise ZeroDivisionError
    assert (tmp_path / "m" / "rows.jsonl").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["m"]


def test_leftovers_of_a_killed_process_go_and_a_users_folder_of_such_a_name_stays(tmp_path: Path) -> None:
    from socket import gethostname

    killed, users = tmp_path / ".m.99999999-abc", tmp_path / ".m.99999998-abc"
    killed.mkdir()
    write_json(killed / LIST_NAME, {"kind": "growing", "host": gethostname()})
    users.mkdir()
    (users / "photo.jpg").touch()
    make_mix(tmp_path / "m", "new")
    assert sorted(os.listdir(tmp_path)) == [users.name, "m"]


def test_a_file_of_crocs_is_replaced_until_somebody_changes_it(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    put_text(file, "one")
    put_text(file, "two")
    assert file.read_text() == "two"
    assert file.stat().st_mode & 0o777 == 0o666 & ~_umask()
    file.write_text("my own words")
    with pytest.raises(UsageError, match=r"rows\.json is a file that croc did not make"):
        put_text(file, "three")
    assert file.read_text() == "my own words"


def test_a_link_at_a_files_place_is_refused_and_its_end_untouched(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "out.json").symlink_to("mine")
    with pytest.raises(UsageError, match="is a link that croc did not make"):
        put_text(tmp_path / "out.json", "new")
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_file_that_was_not_finished_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TypeError), growing_file(tmp_path / "a.json") as growing:
        growing.open("w").write(None)  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []


def test_long_names_are_put_in_place(tmp_path: Path) -> None:
    put_text(tmp_path / ("é" * 120), "whole")
    make_mix(tmp_path / ("m" * 250), "whole")


def test_only_a_folder_of_the_kind_is_removed(tmp_path: Path) -> None:
    make_mix(tmp_path / "m", "old")
    (tmp_path / "mine").mkdir()
    for place in (tmp_path / "mine", tmp_path / "m"):
        with pytest.raises(UsageError, match="did not make"):
            remove_made(place, "run")
    remove_made(tmp_path / "m", "mix")
    assert os.listdir(tmp_path) == ["mine"]


@pytest.mark.parametrize("name", ["recipe.yaml", "init", "align", "benchmarks", "preflight", "lock.json"])
def test_a_folder_with_a_users_file_in_a_runs_place_is_no_run_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").touch()
    claim_run(RunDir(tmp_path))  # a user's other files may lie there
    claim_run(RunDir(tmp_path))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / name).write_text("mine")
    with pytest.raises(UsageError, match=f"mine/{name} exists, and croc did not create it"):
        claim_run(RunDir(mine))
    assert os.listdir(mine) == [name]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
