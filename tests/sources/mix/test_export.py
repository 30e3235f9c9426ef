import base64
import json
import tarfile
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from croc_cli.errors import UsageError
from croc_cli.place import is_made
from croc_cli.sources.mix.export import export_mix, exported_images
from croc_cli.sources.mix.mix import build_mix
from croc_cli.sources.read.index import MixFolder
from croc_cli.sources.read.spec import MixSpec, SourceSpec
from croc_cli.sources.verify.verify import verify_mix
from tests.sources.data import encoded, image_row, picture, turns, write_jsonl, write_pictures, write_tar


def mixed(root: Path) -> Path:
    """A mix of pictures in files, in a table and in a tar."""
    write_pictures(root / "images", 3)
    write_jsonl(root / "files.jsonl", [image_row(number) for number in range(3)])
    cells = [{"image": {"bytes": encoded(picture(number), "PNG"), "path": None}} for number in range(3)]
    table = [cell | {"conversations": turns(answer=f"Cell {number}.")} for number, cell in enumerate(cells)]
    parquet.write_table(pyarrow.Table.from_pylist(table), root / "table.parquet")
    members = {}
    for number in range(2):
        members |= {f"a/{number}.jpg": encoded(picture(9 + number)), f"a/{number}.txt": f"Member {number}.".encode()}
    write_tar(root / "shards.tar", members)
    sources = (
        SourceSpec("files", root / "files.jsonl", image_root=root / "images"),
        SourceSpec("table", root / "table.parquet"),
        SourceSpec("tars", root / "shards.tar"),
    )
    build_mix(MixSpec("mixed", sources, root), root / "mixes" / "mixed")
    return root / "mixes" / "mixed"


def test_images_in_tables_and_tars_are_written_out_to_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    mix = mixed(tmp_path)
    for _ in range(2):  # an export replaces what an earlier one made
        assert export_mix(mix, tmp_path / "out.json") == 8
    rows = {row["conversations"][1]["value"]: row for row in json.loads((tmp_path / "out.json").read_text())}
    assert rows["Picture 2 shows a shape."]["image"] == "images/00002.jpg"
    folder = exported_images(MixFolder(mix), tmp_path / "out.json")
    assert folder is not None
    assert rows["Cell 1."]["image"] == f"exports/{folder.name}/table/00000/000000001.png"
    assert rows["Member 1."]["image"] == f"exports/{folder.name}/tars/00000/000000001.jpg"
    assert not any("image_range" in row for row in rows.values())
    assert (tmp_path / rows["Cell 1."]["image"]).read_bytes() == encoded(picture(1), "PNG")
    assert (tmp_path / rows["Member 1."]["image"]).read_bytes() == encoded(picture(10))
    assert is_made(folder, "export")
    assert verify_mix(tmp_path / "out.json", image_folder=tmp_path).ok
    export_mix(mix, tmp_path / "again.parquet")
    names = [name for row in parquet.read_table(tmp_path / "again.parquet").to_pylist() for name in row["image"]]
    assert len(names) == 8
    assert all((tmp_path / name).is_file() for name in names)


def test_a_mix_of_files_alone_writes_no_images(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", 2)
    write_jsonl(tmp_path / "files.jsonl", [image_row(number) for number in range(2)])
    spec = MixSpec("one", (SourceSpec("files", tmp_path / "files.jsonl", image_root=tmp_path / "images"),), tmp_path)
    build_mix(spec, tmp_path / "mix")
    assert export_mix(tmp_path / "mix", tmp_path / "out.json") == 2
    assert exported_images(MixFolder(tmp_path / "mix"), tmp_path / "out.json") is None
    assert not (tmp_path / "exports").exists()


def test_a_folder_of_the_users_and_a_tar_that_lacks_its_end_are_refused(tmp_path: Path) -> None:
    mix = mixed(tmp_path)
    folder = exported_images(MixFolder(mix), tmp_path / "out.json")
    assert folder is not None
    folder.mkdir(parents=True)
    (folder / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(UsageError, match=rf"exports/{folder.name} is a folder that croc did not make"):
        export_mix(mix, tmp_path / "out.json")
    assert (folder / "mine.jpg").read_bytes() == b"mine"
    tar = next((mix / "images").glob("*.tar"))
    with tarfile.open(tar) as opened:
        offset = opened.getmembers()[-1].offset_data
    tar.write_bytes(tar.read_bytes()[: offset + 5])
    with pytest.raises(UsageError, match="ends before"):
        export_mix(mix, tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists()
    assert not list((tmp_path / "exports").glob("other*"))


def test_exports_of_one_name_in_two_places_keep_their_images(tmp_path: Path) -> None:
    for number, name in enumerate(("one", "two")):
        root = tmp_path / name
        root.mkdir()
        table = [{"image": {"bytes": encoded(picture(number), "PNG"), "path": None}, "caption": name}]
        parquet.write_table(pyarrow.Table.from_pylist(table), root / "table.parquet")
        build_mix(MixSpec(name, (SourceSpec("s", root / "table.parquet"),), tmp_path), root / "mix")
        export_mix(root / "mix", root / "out.json")
    for number, name in enumerate(("one", "two")):
        [row] = json.loads((tmp_path / name / "out.json").read_text())
        assert (tmp_path / row["image"]).read_bytes() == encoded(picture(number), "PNG")


def test_a_name_that_is_not_utf8_is_named_by_parquet_and_held_by_jsonl(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", 1)
    write_jsonl(tmp_path / "it.jsonl", [image_row(0) | {"id": "p\udce9"}])
    spec = MixSpec("it", (SourceSpec("it", tmp_path / "it.jsonl", image_root=tmp_path / "images"),), tmp_path)
    build_mix(spec, tmp_path / "mixes" / "it")
    with pytest.raises(UsageError, match=r"row 'p.udce9': 'p.udce9' is not UTF-8, which parquet needs"):
        export_mix(tmp_path / "mixes" / "it", tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()
    assert export_mix(tmp_path / "mixes" / "it", tmp_path / "out.jsonl") == 1


def test_a_text_row_with_a_key_that_croc_uses_is_exported_as_it_is(tmp_path: Path) -> None:
    embedded = "data:image/png;base64," + base64.b64encode(encoded(picture(1), "PNG")).decode()
    rows = [{"conversations": turns("What?"), "image_range": ""}, image_row(1) | {"image": embedded}]
    build_mix(MixSpec("it", (SourceSpec("it", write_jsonl(tmp_path / "it.jsonl", rows)),), tmp_path), tmp_path / "mix")
    assert export_mix(tmp_path / "mix", tmp_path / "out.json") == 2
    found = json.loads((tmp_path / "out.json").read_text())
    assert sorted(row.get("image_range", "none") for row in found) == ["", "none"]
