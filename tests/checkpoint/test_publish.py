"""Uploads against a stand-in of the hub on the loopback."""

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from croc_cli.checkpoint.metadata import CheckpointMetadata, StartPoint
from croc_cli.checkpoint.publish import files_to_push, push
from croc_cli.errors import RunError, UsageError
from croc_cli.names import STAGES
from croc_cli.report.model_card import model_card
from tests.report.runs import make_run
from tests.tiny import make_tiny_llava


def make_checkpoint(tmp_path: Path, **metadata: Any) -> Path:
    """Write a finished run of `nano` and the tiny model as its last checkpoint, with DeepSpeed's state beside it."""
    run = make_run(tmp_path / "runs" / "nano")
    folder = make_tiny_llava(run / "finetune" / "checkpoints" / "step-00000020")
    start = StartPoint(path="/home/me/runs/nano/reconstruct/checkpoints/step-00000020", weights_sha256="ab")
    CheckpointMetadata(
        stage="finetune", step=20, template="vicuna_v1", weights_sha256="cd12", start=start, **metadata
    ).write(folder)
    (folder / "recipe.yaml").write_text((run / "finetune" / "recipe.yaml").read_text())
    (folder / "resume").mkdir()
    (folder / "resume" / "optimizer.pt").write_bytes(b"state")
    return folder


def test_deepspeeds_state_and_hidden_files_stay_here(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    (folder / ".hidden").write_text("x")
    (folder / "notes.txt").write_text("mine")
    (folder / "old").mkdir()
    (folder / "old" / "model.safetensors").write_bytes(b"x")
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"of an earlier save")
    pushed, left = files_to_push(folder)
    names = {file.relative_to(folder).as_posix() for file in pushed}
    assert left == ["model-00001-of-00002.safetensors", "notes.txt", "old/"]
    assert {"model.safetensors", "config.json", "croc.json", "recipe.yaml", "tokenizer.json"} <= names
    assert not any("resume" in name or "hidden" in name or name in left for name in names)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    (tmp_path / "secret").write_text("key")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "chat_template.jinja").symlink_to(tmp_path / "secret")
    with pytest.raises(UsageError, match=r"chat_template\.jinja is a link to .*secret, outside the checkpoint"):
        files_to_push(folder)


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a model hub as a commit of small files needs."""

    received: dict[str, bytes]
    refuses = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.refuses:
            return self.answer({"error": "no write access"}, status=403)
        if self.path == "/api/repos/create":
            return self.answer(
                {"url": f"http://{self.headers['Host']}/me/my-llava", "name": "me/my-llava", "id": "me/my-llava"}
            )
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self.answer({"files": modes})
        if "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    type(self).received[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            return self.answer(
                {
                    "success": True,
                    "commitOid": "a" * 40,
                    "commitUrl": f"http://{self.headers['Host']}/me/my-llava/commit/a",
                }
            )
        return self.answer({"errors": [], "warnings": []})

    def do_GET(self) -> None:
        self.answer({"name": "me", "type": "user", "id": "me/my-llava", "siblings": [], "sha": "b" * 40})

    def answer(self, value: Any, *, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub on the loopback that huggingface_hub talks to."""
    from huggingface_hub import HfApi

    handler = type("OwnHub", (Hub,), {"received": {}})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: HfApi(endpoint=endpoint, token="hf_test"))
    yield handler
    server.shutdown()
    server.server_close()


def test_everything_goes_up_in_one_commit_without_local_paths(tmp_path: Path, hub: type[Hub]) -> None:
    folder = make_checkpoint(tmp_path)
    said: list[str] = []
    address = push(folder, "me/my-llava", private=False, licence=None, dry_run=False, say=said.append)
    assert address.endswith("/me/my-llava/commit/a")
    assert hub.received["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert b"# my-llava" in hub.received["README.md"]
    assert json.loads(hub.received["croc.json"])["start"]["path"] == "step-00000020"
    assert hub.received.keys() == {file.name for file in files_to_push(folder)[0]} | {"README.md"}
    assert "me/my-llava" in said[0]


def test_a_hub_that_refuses_asks_for_a_token_that_may_write(tmp_path: Path, hub: type[Hub]) -> None:
    hub.refuses = True
    with pytest.raises(RunError, match="refused me/my-llava") as caught:
        push(make_checkpoint(tmp_path), "me/my-llava", private=False, licence=None, dry_run=False, say=lambda _: None)
    assert "HF_TOKEN" in str(caught.value.hint)


def test_a_dry_run_returns_the_card_and_asks_no_hub(tmp_path: Path, hub: type[Hub]) -> None:
    folder, said = make_checkpoint(tmp_path), list[str]()
    card = push(folder, "me/x", private=False, licence=None, dry_run=True, say=said.append)
    assert card.startswith("---\n")
    listed = {line.split()[0] for line in said if line.startswith("  ")}
    assert listed == {file.name for file in files_to_push(folder)[0]}
    assert not hub.received


def test_what_is_no_checkpoint_or_no_repository_is_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    for name, where, message in (
        ("my-llava", folder, "'my-llava' is not a repository's name"),
        ("me/x", tmp_path / "nowhere", "nowhere is not a folder"),
        ("me/x", tmp_path, "is not a checkpoint: it has no config.json"),
    ):
        with pytest.raises(UsageError, match=message):
            push(where, name, private=False, licence=None, dry_run=True, say=lambda _: None)


def test_the_card_lists_the_data_of_the_stages_that_led_to_the_checkpoint_alone(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)

    def stages(**metadata: Any) -> set[str]:
        CheckpointMetadata(**metadata).write(folder)
        data = model_card(folder, "me/x", licence=None).partition("## Data")[2].partition("##")[0]
        return {line.split(" | ")[0].strip("| ") for line in data.splitlines() if line.startswith("|")} & set(STAGES)

    assembled = StartPoint(path="/x/runs/nano/init", weights_sha256="ab")
    assert stages(stage="align", start=assembled) == {"align"}
    assert stages(stage="finetune", start=assembled) == {"finetune"}
    gone = StartPoint(path="/x/runs/nano/align/checkpoints/step-00000040", weights_sha256="ab")
    assert stages(stage="reconstruct", start=gone) == {"align", "reconstruct"}
    other = make_tiny_llava(tmp_path / "other" / "align" / "checkpoints" / "step-00000003")
    CheckpointMetadata(stage="align", start=assembled).write(other)
    assert stages(stage="finetune", start=StartPoint(path=str(other), weights_sha256="ab")) == {"align", "finetune"}


def test_a_link_that_leads_to_itself_is_named(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "generation_config.json").symlink_to(folder / "generation_config.json")
    with pytest.raises(UsageError, match=r"generation_config\.json is a link that leads nowhere"):
        files_to_push(folder)
