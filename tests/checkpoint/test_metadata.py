import hashlib
import os
from pathlib import Path

import pytest

from croc_cli.checkpoint.metadata import CheckpointMetadata, verify_hashes, weights_sha256
from croc_cli.errors import UsageError
from croc_cli.launch import known_files
from croc_cli.launch.weights import combine_hashes
from croc_cli.run_dir import sha256_of


def test_the_combined_hash_depends_on_names_and_bytes_but_not_on_order():
    one = combine_hashes({"a.safetensors": "1", "b.safetensors": "2"})
    assert one == combine_hashes({"b.safetensors": "2", "a.safetensors": "1"})
    assert one == hashlib.sha256(b"1  a.safetensors\n2  b.safetensors\n").hexdigest()
    assert one != combine_hashes({"a.safetensors": "2", "b.safetensors": "1"})


def test_a_stock_folder_is_hashed_from_its_files(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "croc_training_state.safetensors").write_bytes(b"pool")
    expected = combine_hashes({"model.safetensors": hashlib.sha256(b"weights").hexdigest()})
    assert weights_sha256(tmp_path) == expected
    verify_hashes(tmp_path)


def test_a_changed_file_is_named_with_both_hashes(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    CheckpointMetadata(files={file.name: sha256_of(file)}).write(tmp_path)
    verify_hashes(tmp_path)
    file.write_bytes(b"Weights")
    with pytest.raises(UsageError, match=r"model\.safetensors is not what was saved: SHA-256 \w{64}, expected \w{64}"):
        verify_hashes(tmp_path)
    file.unlink()
    with pytest.raises(UsageError, match=r"model\.safetensors is missing, but croc\.json lists it"):
        verify_hashes(tmp_path)


def test_the_identity_is_that_of_the_files_and_not_of_what_croc_json_says(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    expected = weights_sha256(tmp_path)
    CheckpointMetadata(weights_sha256="another").write(tmp_path)
    assert weights_sha256(tmp_path) == expected
    CheckpointMetadata(weights_sha256=expected, files={file.name: sha256_of(file)}).write(tmp_path)
    assert weights_sha256(tmp_path) == expected
    file.write_bytes(b"Weights")
    with pytest.raises(UsageError, match=r"model\.safetensors is not what was saved: SHA-256 .* by croc\.json"):
        weights_sha256(tmp_path)


def test_weights_that_croc_json_does_not_list_are_named(tmp_path):
    file = tmp_path / "model-1.safetensors"
    file.write_bytes(b"weights")
    CheckpointMetadata(files={file.name: sha256_of(file)}).write(tmp_path)
    (tmp_path / "model-2.safetensors").write_bytes(b"more")
    with pytest.raises(UsageError, match=r"model-2\.safetensors is not among the files that croc\.json lists"):
        verify_hashes(tmp_path)


def test_pickles_of_the_original_code_are_an_identity_too(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pytorch_model.bin").write_bytes(name.encode())
    assert weights_sha256(tmp_path / "one") != weights_sha256(tmp_path / "two")


def test_a_large_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file, read = tmp_path / "model.safetensors", []

    def counted(path: Path) -> str:
        read.append(path)
        return sha256_of(path)

    monkeypatch.setattr(known_files, "sha256_of", counted)
    file.write_bytes(bytes(5_000_000))
    first = weights_sha256(tmp_path)
    assert weights_sha256(tmp_path) == first
    assert len(read) == 1
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    file.write_bytes(bytes(4_999_999) + b"1")
    os.utime(file, ns=times)  # same size, same time of change: the inode's own time still tells
    assert weights_sha256(tmp_path) != first
    assert len(read) == 2


def test_without_a_place_for_the_cache_files_are_read_each_time(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file where the folder would be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "model.safetensors").write_bytes(bytes(5_000_000))
    assert weights_sha256(tmp_path) == weights_sha256(tmp_path)
