import os
import socket
from pathlib import Path

import pytest

from croc_cli.files import NotAFileError, check_regular, free_disk, open_file, read_bytes


def test_a_regular_file_is_read_through_links_too(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to("a")
    for name in ("a", "link"):
        assert read_bytes(tmp_path / name) == b"content"
        check_regular(str(tmp_path / name))
    with open_file(tmp_path / "a") as file:
        file.seek(3)
        assert file.read() == b"tent"


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a socket", "a device"])
def test_what_is_no_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    else:
        path.symlink_to("/dev/zero")
    for refuse in (open_file, read_bytes, check_regular):
        with pytest.raises(NotAFileError) as caught:
            refuse(path)
        assert caught.value.strerror == f"{kind}, expected a file"
        assert caught.value.filename == str(path)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "none")


def test_free_disk_of_a_folder_that_is_not_there_is_that_of_its_parent(tmp_path: Path) -> None:
    assert free_disk(tmp_path / "a" / "b") > 0
    assert not (tmp_path / "a").exists()
