"""`croc convert` as users type it."""

from pathlib import Path

import pytest
from PIL import Image

from tests.checkpoint.originals import make_original
from tests.commands.croc import croc, croc_process


def test_the_result_on_stdout_is_the_folder_and_nothing_else(tmp_path: Path) -> None:
    source = make_original(tmp_path / "original")
    answer = croc_process("convert", str(source), str(tmp_path / "stock"))
    assert (answer.code, answer.out, answer.err) == (0, f"{tmp_path / 'stock'}\n", "")


def test_an_original_croc_checkpoint_is_chatted_with_as_it_is(tmp_path: Path) -> None:
    source = make_original(tmp_path / "croc", "croc_llama")
    Image.new("RGB", (60, 40), "red").save(tmp_path / "image.png")
    answer = croc("chat", str(tmp_path / "image.png"), "What is this?", "--model", str(source), "--max-tokens", "3")
    assert answer.code == 0, answer.err


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("here", "out", "--to", "onnx"), "--to onnx: unknown format", "stock, llava, gguf"),
        (("here", "out"), "is not a checkpoint: it has no config.json", "give a folder"),
        (("./nowhere", "out"), "checkpoint ./nowhere not found", "a folder or a hub id"),
        (("bert", "out"), "holds a bert model, expected a LLaVA: llava (transformers), llava_llama", "give a folder"),
    ],
)
def test_what_is_wrong_is_one_line_and_a_hint(
    arguments: tuple[str, ...], message: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    Path("bert").mkdir()
    Path("bert/config.json").write_text('{"model_type": "bert"}')
    answer = croc("convert", *arguments)
    assert answer.code == 2
    assert message in answer.err
    assert hint in answer.err
    assert not Path("out").exists()
