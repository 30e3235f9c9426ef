import hashlib

import pytest

from croc_cli.checkpoint.metadata import CheckpointMetadata, combine_hashes, verify_hashes, weights_sha256
from croc_cli.errors import UsageError
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
