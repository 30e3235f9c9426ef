import os
import subprocess
import sys
from pathlib import Path

import pytest

from croc_cli.errors import UsageError
from croc_cli.launch.model_sources import check_model, looks_like_path


def test_a_local_folder_needs_a_config(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.llm: the folder .* holds no config\.json") as caught:
        check_model(str(tmp_path), part="llm")
    assert "--set model.llm=DIR" in (caught.value.hint or "")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="names no model_type"):
        check_model(str(tmp_path), part="llm")


def test_a_path_that_does_not_exist_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the vision tower's folder .*clip does not exist"):
        check_model(str(tmp_path / "clip"), part="vision_tower")
    assert [looks_like_path(name) for name in ("./a", "~/a/b", "a/b/c", "a/", "openai/clip", "gpt2")] == [
        *(True, True, True, True),
        *(False, False),
    ]


def test_only_known_names_are_built_in() -> None:
    with pytest.raises(UsageError, match="builtin:micro is not built in") as caught:
        check_model("builtin:micro", part="llm")
    assert caught.value.hint == "known: builtin:nano"


@pytest.mark.parametrize(
    ("endpoint", "offline", "words"),
    [
        ("http://127.0.0.1:9", "0", "http://127.0.0.1:9 cannot be reached"),
        ("http://127.0.0.1:9", "1", "HF_HUB_OFFLINE forbids to ask the hub"),
    ],
)
def test_a_hub_that_cannot_be_asked_is_told_with_where_was_looked(
    tmp_path: Path, endpoint: str, offline: str, words: str
) -> None:
    code = "from croc_cli.launch.model_sources import check_model\ncheck_model('openai/clip', part='vision_tower')"
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": offline, "HF_HOME": str(tmp_path)}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    *_, last, _hint = answer.stderr.strip().splitlines()
    assert "model.vision_tower: the vision tower openai/clip was not found" in last
    assert str(tmp_path) in last
    assert words in last
