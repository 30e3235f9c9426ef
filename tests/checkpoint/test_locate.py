import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from croc_cli.checkpoint.locate import locate_checkpoint, newest_checkpoints
from croc_cli.checkpoint.metadata import CheckpointMetadata, read_metadata
from croc_cli.errors import UsageError
from tests.tiny import make_tiny_llava


@pytest.fixture
def folder(tmp_path):
    return make_tiny_llava(tmp_path / "llava")


def test_a_whole_folder_is_returned(folder):
    assert locate_checkpoint(folder) == folder
    assert locate_checkpoint(str(folder)) == folder


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nothing", "a/b/c", "~/no-such-folder-here"])
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(name):
    with pytest.raises(UsageError, match=f"checkpoint {name} not found: no such folder in"):
        locate_checkpoint(name)


def test_a_file_is_no_checkpoint(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="is a file, expected a checkpoint folder"):
        locate_checkpoint(tmp_path / "x.safetensors")


def test_an_empty_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(UsageError, match=r"is not a checkpoint: it has no config\.json"):
        locate_checkpoint(tmp_path)


def test_another_kind_of_model_is_named(folder):
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UsageError, match=r"holds a llama model, expected a LLaVA: llava \(transformers\), llava_llama"):
        locate_checkpoint(folder)
    (folder / "config.json").write_text('{"model_type": "croc_llama", "mm_projector_type": "linear"}')
    with pytest.raises(UsageError, match="mm_projector_type is 'linear', expected mlp2x_gelu"):
        locate_checkpoint(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config.json cannot be read"):
        locate_checkpoint(folder)


def test_missing_weights_are_named_and_pickles_are_not_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        UsageError,
        match=r"has no weights: model\.safetensors is missing; pytorch_model\.bin is not read here: `croc convert",
    ):
        locate_checkpoint(folder)


def test_a_missing_processor_is_named(folder):
    (folder / "processor_config.json").unlink()
    with pytest.raises(UsageError, match="has no processor"):
        locate_checkpoint(folder)


def test_a_missing_shard_is_named(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UsageError, match=r"model-00002-of-00002\.safetensors is missing"):
        locate_checkpoint(folder)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_weights_that_are_cut_off_are_named(folder, keep):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UsageError, match=r"model\.safetensors (is not a complete|has )"):
        locate_checkpoint(folder)


def test_weights_that_are_something_else_are_named(folder):
    (folder / "model.safetensors").write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(UsageError, match=r"model\.safetensors is not a complete safetensors file"):
        locate_checkpoint(folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"visual_norm": "l3"}', 'visual_norm is "l3", expected one of none, l2'),
        ('{"visual_norm": ["l2"]}', 'visual_norm is \\["l2"\\], expected one of none, l2'),
        ('{"template": 3}', "template is 3, expected one of plain, vicuna_v1"),
        ('{"stage": "eval"}', 'stage is "eval", expected one of align'),
        ('{"step": "12"}', 'step is "12", expected a number of steps'),
        ('{"step": true}', "step is true, expected a number of steps"),
        ('{"files": ["a"]}', 'files is \\["a"\\], expected a SHA-256 for each file name'),
        ('{"files": {"../a": "1"}}', "files is .*, expected a SHA-256 for each file name"),
        ('{"start": {"where": 1}}', "start is .*, expected path and weights_sha256"),
        ('{"health": 0.5}', "health is 0.5, expected figures by name"),
        ("[1]", "holds list, expected a JSON object"),
        ("[" * 100_000, "cannot be read: "),
        ("\xff", "cannot be read: .*not UTF-8"),
    ],
)
def test_a_broken_croc_json_is_named_with_its_key(folder, text, expected):
    (folder / "croc.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=rf"croc\.json:? {expected}"):
        read_metadata(folder)


HUB_LOOKUP = """
import sys
from croc_cli.checkpoint.locate import locate_checkpoint
from croc_cli.errors import UsageError
try:
    locate_checkpoint("someone/some-llava")
except UsageError as error:
    print(error.message); print(error.hint)
assert "torch" not in sys.modules
"""


def look_up(tmp_path, **environment):
    """Look a hub id up in a process of its own: huggingface_hub reads the environment when it is imported."""
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "HF_HOME": str(tmp_path / "hf"), **environment}
    done = subprocess.run(
        [sys.executable, "-c", HUB_LOOKUP], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    message, hint = done.stdout.splitlines()
    assert "pass the local folder: --model DIR" in hint
    assert f"no folder {tmp_path}/someone/some-llava, not in the cache {tmp_path}/hf/hub" in message
    return message


def test_a_hub_that_cannot_be_reached_says_where_it_looked(tmp_path):
    with socket.socket() as closed:  # bound and not listening: the connection is refused
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        message = look_up(tmp_path, HF_ENDPOINT=endpoint)
    assert message.startswith("checkpoint someone/some-llava not found")
    assert endpoint in message


def test_offline_mode_is_said(tmp_path):
    assert "did not give it" in look_up(tmp_path, HF_HUB_OFFLINE="1")


class _NotFound(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


def test_a_name_that_the_hub_does_not_know_is_said(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _NotFound)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        assert endpoint in look_up(tmp_path, HF_ENDPOINT=endpoint)
    finally:
        server.shutdown()
        server.server_close()


class _Gated(_NotFound):
    def do_GET(self):
        self.send_response(403)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET


def test_a_gated_repository_says_where_to_ask(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Gated)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"

    def ask(hub_id, **options):
        with pytest.raises(GatedRepoError) as caught:
            huggingface_hub.HfApi(endpoint=endpoint).model_info(hub_id)
        raise caught.value

    monkeypatch.setattr("croc_cli.model.find.fetch_files", ask)
    try:
        with pytest.raises(UsageError, match="it is gated") as caught:
            locate_checkpoint("someone/some-llava")
    finally:
        server.shutdown()
        server.server_close()
    assert "ask for access at" in caught.value.hint
    assert "HF_TOKEN" in caught.value.hint


def checkpoint(runs, name, stage, *, age):
    folder = runs / name / stage / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True)
    CheckpointMetadata(stage=stage).write(folder)
    os.utime(folder / "croc.json", (1_000_000 - age, 1_000_000 - age))
    return folder


def test_the_newest_finetuned_checkpoint_is_found(tmp_path):
    old = checkpoint(tmp_path, "old", "finetune", age=50)
    newest = checkpoint(tmp_path, "new", "finetune", age=10)
    checkpoint(tmp_path, "newer", "align", age=0)
    hidden = newest.with_name(".step-00000002.tmp")
    hidden.mkdir()
    CheckpointMetadata(stage="finetune").write(hidden)
    assert newest_checkpoints("finetune", tmp_path) == [newest, old]
    (newest / "croc.json").write_text("{")
    said = []
    assert newest_checkpoints("finetune", tmp_path, say=said.append) == [old]
    assert said[0].startswith(f"skipped: {newest}/croc.json cannot be read")


def test_no_finetuned_checkpoint_says_where_it_looked(tmp_path):
    checkpoint(tmp_path, "a", "align", age=0)
    with pytest.raises(UsageError, match=f"no finetune checkpoint under {tmp_path}") as caught:
        newest_checkpoints("finetune", tmp_path)
    assert "--model" in caught.value.hint
