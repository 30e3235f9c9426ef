import errno
import gzip
import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from croc_cli.sources.fetch import unpack as unpack_module
from croc_cli.sources.fetch.unpack import BrokenArchiveError, UnpackError, unpack
from croc_cli.sources.known.source import Unpack
from croc_cli.sources.read.content import WrongContentError


def zip_of(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def tar_of(path: Path, members: list[tarfile.TarInfo | tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as packed:  # type: ignore[call-overload]
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                packed.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                packed.addfile(info, io.BytesIO(member[1]))
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_zip_keeps_its_folders(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"00000/1.jpg": b"one", "00001/2.jpg": b"two"})
    done = unpack(archive, tmp_path / "out", Unpack(to="out", num_files=2))
    assert (done.num_files, done.num_bytes) == (2, 6)
    assert names(tmp_path / "out") == ["00000/1.jpg", "00001/2.jpg"]


def test_flat_takes_names_alone_and_only_takes_what_fits(tmp_path: Path) -> None:
    files = {"train2017/1.jpg": b"1", "train2017/notes.txt": b"t", "__MACOSX/._1.jpg": b"m", "train2017/._1.jpg": b"m"}
    done = unpack(zip_of(tmp_path / "a.zip", files), tmp_path / "out", Unpack(to="o", flat=True, only=("*.jpg",)))
    assert names(tmp_path / "out") == ["1.jpg"]
    assert done.num_skipped == 3


def test_leading_folders_are_left_off_where_they_are_there(tmp_path: Path) -> None:
    wanted = Unpack(to="o", strip=("release", "data"))
    unpack(zip_of(tmp_path / "a.zip", {"release/data/x/1": b"", "release/2": b"", "3": b""}), tmp_path / "out", wanted)
    assert names(tmp_path / "out") == ["2", "3", "x/1"]


@pytest.mark.parametrize(("suffix", "mode"), [(".tar", "w"), (".tar.gz", "w:gz"), (".tgz", "w:gz")])
def test_tars_are_unpacked_too(tmp_path: Path, suffix: str, mode: str) -> None:
    archive = tar_of(tmp_path / f"a{suffix}", [("./sa_1.jpg", b"one"), ("./sa_1.json", b"{}")], mode)
    unpack(archive, tmp_path / "out", Unpack(to="o", flat=True, only=("*.jpg",), num_files=1))
    assert names(tmp_path / "out") == ["sa_1.jpg"]


@pytest.mark.parametrize("name", ["../out.txt", "/etc/out.txt", "a/../../out.txt", "C:/out.txt", "a\\..\\out.txt"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_member_that_leads_outside_stops_everything(tmp_path: Path, name: str, kind: str) -> None:
    archive = tmp_path / f"a.{kind}"
    (zip_of(archive, {name: b"x"}) if kind == "zip" else tar_of(archive, [(name, b"x")]))
    with pytest.raises(UnpackError, match="leads outside its folder"):
        unpack(archive, tmp_path / "in" / "out", Unpack(to="o"))
    assert names(tmp_path) == [f"a.{kind}"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("evil")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(UnpackError, match="'evil' is a link or a device"):
        unpack(tar_of(tmp_path / "a.tar", [info]), tmp_path / "out", Unpack(to="o"))
    assert names(tmp_path / "out") == []


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("evil")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(info, "/etc/passwd")
    with pytest.raises(UnpackError, match="'evil' is a link or a device"):
        unpack(tmp_path / "a.zip", tmp_path / "out", Unpack(to="o"))


def test_too_many_files_and_too_many_bytes_are_refused(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {f"{number}.txt": b"x" * 100 for number in range(10)})
    with pytest.raises(UnpackError, match="has more than 9 files"):
        unpack(archive, tmp_path / "out", Unpack(to="o", max_files=9))
    with pytest.raises(UnpackError, match="unpacks to more than 500 bytes"):
        unpack(archive, tmp_path / "out", Unpack(to="o", max_bytes=500))


def test_a_zip_bomb_is_stopped_by_its_own_announcement(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros", b"\0" * 50_000_000)
    assert (tmp_path / "a.zip").stat().st_size < 100_000
    with pytest.raises(UnpackError, match="unpacks to more than 1,000,000 bytes"):
        unpack(tmp_path / "a.zip", tmp_path / "out", Unpack(to="o", max_bytes=1_000_000))
    assert names(tmp_path / "out") == []


def test_two_members_of_one_name_are_refused_when_flat(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"a/1.jpg": b"1", "b/1.jpg": b"2"})
    with pytest.raises(UnpackError, match=r"a/1.jpg and b/1.jpg would both become 1.jpg"):
        unpack(archive, tmp_path / "out", Unpack(to="o", flat=True))


def test_another_number_of_files_than_is_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnpackError, match="gave 1 file, expected 2"):
        unpack(zip_of(tmp_path / "a.zip", {"1": b""}), tmp_path / "out", Unpack(to="o", num_files=2))


def test_what_is_there_already_is_not_written_again(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"1.jpg": b"one", "2.jpg": b"two"})
    unpack(archive, tmp_path / "out", Unpack(to="o"))
    stamps = [(tmp_path / "out" / name).stat().st_mtime_ns for name in ("1.jpg", "2.jpg")]
    unpack(archive, tmp_path / "out", Unpack(to="o"))
    assert [(tmp_path / "out" / name).stat().st_mtime_ns for name in ("1.jpg", "2.jpg")] == stamps


def test_a_file_of_the_users_in_a_members_place_is_left(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"1.jpg": b"one", "2.jpg": b"two"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "2.jpg").write_bytes(b"the user's")
    with pytest.raises(UnpackError, match=r"out/2\.jpg already exists, and is not 2\.jpg of 3 bytes"):
        unpack(archive, tmp_path / "out", Unpack(to="o"))
    assert (tmp_path / "out" / "2.jpg").read_bytes() == b"the user's"
    assert names(tmp_path / "out") == ["1.jpg", "2.jpg"]


@pytest.mark.parametrize("make", ["zip", "tar"])
def test_a_file_that_is_a_folder_too_and_a_name_too_long_are_named(tmp_path: Path, make: str) -> None:
    for number, second in enumerate(("a/b", "x" * 300, "d/" + "x" * 300)):
        archive = tmp_path / f"{number}.{make}"
        members = {"a": b"one", second: b"two"}
        zip_of(archive, members) if make == "zip" else tar_of(archive, list(members.items()))
        with pytest.raises(
            UnpackError, match=rf"{number}\.{make}: '.*' cannot be written: (Not a dir|File (exists|name))"
        ):
            unpack(archive, tmp_path / f"out{number}", Unpack(to="o"))
        assert names(tmp_path / f"out{number}") == ["a"]


def test_a_full_disk_fails_the_archive_and_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zip_of(tmp_path / "a.zip", {"1.jpg": b"one"})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(unpack_module, "_copy", full)
    with pytest.raises(UnpackError, match=r"a\.zip: '1\.jpg' cannot be written: no space is left"):
        unpack(archive, tmp_path / "out", Unpack(to="o"))
    assert names(tmp_path / "out") == []


def test_a_spoiled_stream_and_a_header_of_gigabytes_are_called_broken(tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "w.tar", [("1", os.urandom(5000))]).read_bytes()
    packed = bytearray(gzip.compress(whole))
    packed[len(packed) // 2] ^= 0xFF
    (tmp_path / "a.tar.gz").write_bytes(packed)
    with pytest.raises(BrokenArchiveError, match=r"a\.tar\.gz is broken"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out", Unpack(to="o"))
    header = tarfile.TarInfo("h")
    header.type, header.size = tarfile.XHDTYPE, 8_000_000_000
    (tmp_path / "h.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + bytes(10_240))
    with pytest.raises(UnpackError, match="a tar header of 8,000,000,000 bytes"):
        unpack(tmp_path / "h.tar", tmp_path / "out", Unpack(to="o"))
    assert names(tmp_path / "out") == []


def test_truncated_archives_are_called_broken(tmp_path: Path) -> None:
    whole = zip_of(tmp_path / "whole.zip", {"1": b"x" * 5000}).read_bytes()
    (tmp_path / "a.zip").write_bytes(whole[:3000])
    with pytest.raises(BrokenArchiveError, match=r"a.zip is broken: File is not a zip file"):
        unpack(tmp_path / "a.zip", tmp_path / "out", Unpack(to="o"))
    whole = tar_of(tmp_path / "whole.tar", [("1", b"x" * 5000)]).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:3000])
    with pytest.raises(BrokenArchiveError, match="a.tar is broken"):
        unpack(tmp_path / "a.tar", tmp_path / "out", Unpack(to="o"))
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_archives_that_lose_members_without_a_word_are_refused(tmp_path: Path, mode: str) -> None:
    content = tar_of(tmp_path / "a.tar", [("1", b"x"), ("2", b"y")]).read_bytes()
    damaged = (content + content, content[:1024], content[:1024] + b"\xff" * 99 + content[1123:])
    for bad in damaged:
        file = tmp_path / ("b.tar" if mode == "w" else "b.tar.gz")
        file.write_bytes(bad if mode == "w" else gzip.compress(bad))
        with pytest.raises(BrokenArchiveError, match=r"b\.tar(\.gz)? is broken"):
            unpack(file, tmp_path / "out", Unpack(to="o"))
    zipped = zip_of(tmp_path / "a.zip", {"1": b"x"}).read_bytes() + zip_of(tmp_path / "b.zip", {"2": b"x"}).read_bytes()
    (tmp_path / "c.zip").write_bytes(zipped)
    with pytest.raises(UnpackError, match="several zip files"):
        unpack(tmp_path / "c.zip", tmp_path / "out", Unpack(to="o"))


def test_a_spoiled_member_is_called_broken_and_leaves_nothing(tmp_path: Path) -> None:
    content = bytearray(zip_of(tmp_path / "a.zip", {"1": b"x" * 5000}).read_bytes())
    content[100] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(BrokenArchiveError, match="'1': Bad CRC-32"):
        unpack(tmp_path / "a.zip", tmp_path / "out", Unpack(to="o"))
    assert names(tmp_path / "out") == []


def test_a_web_page_in_place_of_an_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("<!doctype html>", encoding="utf-8")
    with pytest.raises(WrongContentError, match="web page in place of a.zip"):
        unpack(tmp_path / "a.zip", tmp_path / "out", Unpack(to="o"))
