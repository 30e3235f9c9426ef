"""Names of pretrained models, and what is said where one leads nowhere."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest

from croc_cli.model import find
from croc_cli.model.find import ModelNotFound, find_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORIES = {
    "org/both": ["config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.model", "onnx/model.onnx"],
    "org/old": ["config.json", "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json", "tf_model.h5"],
}


class Hub(BaseHTTPRequestHandler):
    """As much of a model hub as a download needs."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name not in REPOSITORIES:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if "tree" in parts:
            tree = [{"type": "file", "path": file, "size": len(file), "oid": COMMIT} for file in REPOSITORIES[name]]
            body = json.dumps(tree)
        elif parts[0] == "api":
            siblings = [{"rfilename": file, "size": len(file)} for file in REPOSITORIES[name]]
            body = json.dumps({"id": name, "sha": COMMIT, "siblings": siblings})
        else:
            body = parts[-1]  # a file holds its own name
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{parts[-1]}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body.encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    point_at(address, tmp_path / "cache", monkeypatch)
    yield address
    server.shutdown()
    server.server_close()


def point_at(address: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))


def files_in(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert find_model(str(tmp_path), part="llm") == tmp_path


def test_a_folder_without_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=f"LLM '{tmp_path}': the folder {tmp_path} holds no config.json") as caught:
        find_model(str(tmp_path), part="llm")
    assert caught.value.exit_code == 2
    assert "give model.llm a folder" in str(caught.value.hint)


def test_a_path_that_leads_nowhere_is_not_asked_of_the_hub(tmp_path: Path) -> None:
    missing = str(tmp_path / "none")
    with pytest.raises(ModelNotFound, match=f"vision tower '{missing}' was not found: there is no folder") as caught:
        find_model(missing, part="vision_tower")
    assert caught.value.hint == "pass a local folder: model.vision_tower: /path/to/folder"


def test_the_builtin_parts_are_found_by_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "config.json").write_text("{}")
    monkeypatch.setattr(find, "BUILTIN_FOLDER", tmp_path)
    assert find_model("builtin:nano", part="llm") == tmp_path / "llm"
    with pytest.raises(ModelNotFound, match="LLM 'builtin:mini' is not built in"):
        find_model("builtin:mini", part="llm")


def test_only_configs_tokenizer_and_safetensors_are_fetched(hub: str) -> None:
    folder = find_model("org/both", part="llm")
    assert files_in(folder) == ["config.json", "model.safetensors", "tokenizer.model"]


def test_how_far_a_fetch_is_can_be_measured(hub: str) -> None:
    seen = []

    @contextmanager
    def fetching(total: int | None, measure: Callable[[], int]) -> Iterator[None]:
        before = measure()
        yield
        seen.append((total, before, measure()))

    find_model("org/both", part="llm", fetching=fetching)
    size = sum(map(len, ("config.json", "model.safetensors", "tokenizer.model")))
    assert seen == [(size, 0, size)]


def test_where_there_are_no_safetensors_the_older_weights_are_fetched(hub: str) -> None:
    folder = find_model("org/old", part="llm")
    assert files_in(folder) == ["config.json", "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"]


def test_an_unknown_repository_is_named_with_where_it_was_looked_for(hub: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        find_model("org/none", part="llm")
    assert f"LLM 'org/none' was not found: no folder {Path.cwd() / 'org/none'}, and the hub {hub}" in str(caught.value)
    assert "no such repository" in str(caught.value)


def test_without_a_hub_what_was_fetched_before_is_used(
    hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = find_model("org/both", part="llm")
    point_at("http://127.0.0.1:9", tmp_path / "cache", monkeypatch)
    assert find_model("org/both", part="llm") == before
    with pytest.raises(ModelNotFound, match=r"the hub http://127\.0\.0\.1:9 did not give it") as caught:
        find_model("org/old", part="llm")
    assert caught.value.hint == "pass a local folder: model.llm: /path/to/folder"
