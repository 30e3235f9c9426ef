from pathlib import Path

import pytest

from croc_cli.benchmarks.registry import NAMES, OTHERS, benchmarks
from croc_cli.errors import RecipeError, UsageError
from croc_cli.sources.known.catalog import all_sources, find_source, matching_images, read_catalog
from croc_cli.sources.known.source import HubFile, WebFile

MINE = """
mine:
  title: My pictures
  rows: 3
  licence: cc0-1.0
  annotation: mine/rows.json
  image_root: mine/images
  files:
    - {kind: hub, repo: me/pictures, revision: v1, path: rows.json, to: mine/rows.json, about: 1.5 MB}
    - {kind: web, url: "https://example.org/images.zip", size: 1000, unpack: {to: mine/images}}
    - {kind: url_list, path: mine/urls.parquet, to: mine/more, download: {image_size: 224}}
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(MINE, encoding="utf-8")
    return file


def test_the_sources_of_every_stage_are_there_with_the_rows_that_are_known() -> None:
    names = ("lcs558k", "sharegpt4v-pt", "mix665k", "firefly", "webqa", "recap-cc3m", "llava-next-779k")
    rows = {name: find_source(name).rows for name in names}
    assert rows == {
        "lcs558k": 558_128,
        "sharegpt4v-pt": 1_246_901,
        "mix665k": 665_298,
        "firefly": 1_649_399,
        "webqa": None,
        "recap-cc3m": 2_860_000,
        "llava-next-779k": 779_289,
    }


def test_every_benchmark_has_an_entry_that_lands_in_its_own_folder() -> None:
    for name in (*NAMES, *OTHERS):
        source = find_source(f"eval:{name}")
        landed = [file.unpack.to if getattr(file, "unpack", None) else file.to for file in source.files]
        assert all(str(path).startswith(f"eval/{benchmarks()[name].folder}") for path in landed), name


def test_every_source_that_another_names_exists() -> None:
    sources = all_sources()
    named = {name for source in sources.values() for name in (*source.images.values(), *source.needs)}
    assert named <= set(sources)


def test_every_link_points_to_what_another_source_brings() -> None:
    sources = all_sources()
    roots = {source.image_root for source in sources.values()}
    targets = {file.target for source in sources.values() for file in source.files if file.kind == "link"}
    assert targets <= roots
    assert targets


def test_no_two_files_land_at_the_same_place() -> None:
    places = [
        file.to
        for source in all_sources().values()
        for file in source.files
        if isinstance(file, HubFile | WebFile) and file.to is not None and not file.to.endswith("/")
    ]
    assert len(places) == len(set(places))


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown source 'lcs558'") as raised:
        find_source("lcs558")
    assert raised.value.hint == "did you mean lcs558k?"


def test_a_file_of_the_users_own_adds_sources(mine: Path) -> None:
    source = find_source("mine", [mine])
    assert (source.group, source.expected_bytes, source.size_is_known) == ("own", 1_501_000, False)
    assert source.revision == "v1"
    assert find_source("lcs558k", [mine]).rows == 558_128


def test_everything_wrong_with_a_catalogue_is_said_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(
        "one:\n  rows: 0\n  files:\n    - {kind: web, url: ftp://x, to: a}\n"
        "two:\n  files:\n    - {kind: web, url: http://x/y}\n"
        "three:\n  annotation: ../out.json\n  files:\n    - {kind: hub, repo: a/b, path: '*.json', to: x.json}\n"
        "four: 4\n",
        encoding="utf-8",
    )
    with pytest.raises(RecipeError) as raised:
        read_catalog(file)
    lines = raised.value.message.splitlines()
    assert len(lines) == 7
    assert any("wrong.yaml:2: one.rows: input should be greater than 0" in line for line in lines)
    assert any("wrong.yaml:3: one.files.0.url: string should match" in line for line in lines)
    assert any("two.files.0: must say where it lands: to, or unpack" in line for line in lines)
    assert any("three.annotation: '../out.json' must be a path below the data root" in line for line in lines)
    assert any("`to` must be a folder and end with a slash" in line for line in lines)
    assert any("wrong.yaml:12: four: must be a mapping" in line for line in lines)


def test_a_size_is_read_with_its_unit_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "sizes.yaml"
    file.write_text("one:\n  files:\n    - {kind: web, url: 'http://x/y', to: a, about: 27 stone}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="'27 stone' is not a size; write it like 27.4 GB"):
        read_catalog(file)
    assert find_source("lcs558k-images").expected_bytes == 27_400_000_000


def test_filters_of_a_mix_leave_out_the_images_that_no_row_would_name() -> None:
    captions = find_source("sharegpt4v-pt")
    assert matching_images(captions) == ["coco-train2017", "lcs558k-images", "sam-images"]
    assert matching_images(captions, not_prefixes=["sam/"]) == ["coco-train2017", "lcs558k-images"]
    assert matching_images(captions, prefixes=["coco/"]) == ["coco-train2017"]
    assert matching_images(find_source("mix665k"), modality="text") == []
    assert matching_images(find_source("lcs558k"), prefixes=["00000/"]) == ["lcs558k-images"]
