"""Kept features: found again for the same picture, not for a changed one, and never half written."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from croc_cli.data.features import FeatureCache, picture_key
from croc_cli.data.image import BytesImage, LazyImage, PathImage
from croc_cli.errors import UsageError

FEATURES = torch.arange(6.0).view(2, 3)


@pytest.fixture
def picture(tmp_path: Path) -> PathImage:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    return PathImage(tmp_path / "a.png")


def make_cache(folder: Path) -> FeatureCache:
    return FeatureCache(folder / "features", (2, 3), torch.float32)


def test_what_is_written_is_read_and_nothing_else(picture: PathImage, tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    assert cache.read(picture) is None
    cache.write(picture, FEATURES)
    cache.write(None, FEATURES + 1)
    assert cache.has(picture)
    assert torch.equal(cache.read(picture), FEATURES)
    assert torch.equal(cache.read(None), FEATURES + 1)
    assert cache.picture_bytes == 24
    assert not list(cache.folder.rglob(".*"))


def test_a_picture_that_was_changed_is_another_one(picture: PathImage, tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    cache.write(picture, FEATURES)
    os.utime(picture.path, ns=(1, 1))
    assert not cache.has(picture)
    assert picture_key(PathImage(tmp_path / "missing.png")) != picture_key(picture)


def test_a_picture_without_a_file_cannot_be_kept(tmp_path: Path) -> None:
    drawn = LazyImage("drawn", lambda: b"")
    assert picture_key(drawn) is None
    with pytest.raises(UsageError, match="the picture drawn has no file of its own"):
        make_cache(tmp_path).has(drawn)


def test_a_picture_that_lies_in_its_row_is_told_by_its_bytes() -> None:
    assert picture_key(BytesImage("row 1", b"a")) == picture_key(BytesImage("row 2", b"a"))
    assert picture_key(BytesImage("row 1", b"a")) != picture_key(BytesImage("row 1", b"b"))


def test_a_damaged_file_and_one_of_another_shape_are_named(picture: PathImage, tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    cache.write(picture, FEATURES[:1])
    with pytest.raises(UsageError, match=r"holds \(1, 3\) torch.float32, expected \(2, 3\)"):
        cache.read(picture)
    [file] = cache.folder.rglob("*.safetensors")
    file.write_bytes(b"x")
    with pytest.raises(UsageError, match="cannot be read") as caught:
        cache.read(picture)
    assert "delete it" in str(caught.value.hint)
