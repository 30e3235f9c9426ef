"""Conversions: to stock and back, what is lost, and the parts for llama.cpp."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlavaConfig, LlavaForConditionalGeneration

from croc_cli.chat.session import ChatSession
from croc_cli.checkpoint.convert import ConvertRequest, convert
from croc_cli.checkpoint.formats.gguf import GgufOptions
from croc_cli.checkpoint.formats.original_load import OriginalOptions
from croc_cli.checkpoint.load import load_for_inference
from croc_cli.checkpoint.metadata import (
    LLM_TEMPLATE_KEY,
    TOWER_TRAINED_KEY,
    CheckpointMetadata,
    read_metadata,
    verify_hashes,
)
from croc_cli.data.processor_template import with_pictures
from croc_cli.errors import RunError, UsageError
from tests.checkpoint.originals import KINDS, golden_weights, largest_difference, make_original
from tests.data.tiny_tokenizers import CHAT_TEMPLATES, END_TOKENS
from tests.tiny import make_tiny_llava, make_tiny_processor, make_tiny_tokenizer


def write(source: Path, destination: Path, **options: object) -> list[str]:
    said: list[str] = []
    convert(ConvertRequest(str(source), destination, **options), say=said.append)
    return said


@pytest.mark.parametrize("kind", KINDS)
def test_original_to_stock_and_back_is_bit_equal(kind: str, tmp_path: Path) -> None:
    source = make_original(tmp_path / "original", kind, form="bin")
    write(source, tmp_path / "stock", allow_loss=True)
    write(tmp_path / "stock", tmp_path / "again", to="llava")

    expected, found = golden_weights(kind), load_file(tmp_path / "again" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(found[name].dtype == expected[name].dtype for name in expected)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path / "again")]
    assert configs[0] == configs[1]


def test_a_tower_that_was_outside_stays_outside(tmp_path: Path) -> None:
    source = make_original(tmp_path / "original", has_tower=False)
    write(source, tmp_path / "stock")
    write(tmp_path / "stock", tmp_path / "again", to="llava")
    assert load_file(source / "model.safetensors").keys() == load_file(tmp_path / "again" / "model.safetensors").keys()


def test_a_trained_tower_is_stored_and_read_back_whatever_tower_the_config_names(tmp_path: Path) -> None:
    published = make_original(tmp_path / "original")  # whose vision_tower/ is what it names
    named = json.loads((published / "config.json").read_text())["mm_vision_tower"]
    write(published, tmp_path / "start")
    stock = LlavaForConditionalGeneration.from_pretrained(tmp_path / "start")
    with torch.no_grad():
        for weight in stock.model.vision_tower.parameters():
            weight += 1.0
    shutil.copytree(tmp_path / "start", tmp_path / "trained")
    stock.save_pretrained(tmp_path / "trained")
    CheckpointMetadata(stage="finetune", extra={TOWER_TRAINED_KEY: True}).write(tmp_path / "trained")

    write(tmp_path / "trained", tmp_path / "llava", to="llava", original=OriginalOptions(vision_tower=named))
    config = json.loads((tmp_path / "llava" / "config.json").read_text())
    assert (config["mm_vision_tower"], config["unfreeze_mm_vision_tower"]) == (named, True)
    write(tmp_path / "llava", tmp_path / "again")
    again = LlavaForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert read_metadata(tmp_path / "again").extra[TOWER_TRAINED_KEY] is True
    expected = dict(stock.model.vision_tower.state_dict())
    assert all(torch.equal(found, expected[name]) for name, found in again.model.vision_tower.state_dict().items())


def test_halves_of_several_dtypes_come_back_as_they_were(tmp_path: Path) -> None:
    weights = {
        name: tensor.to(torch.float32 if "mm_projector" in name else torch.float16)
        for name, tensor in golden_weights("llava_llama").items()
    }
    write(make_original(tmp_path / "original", weights=weights), tmp_path / "stock")
    write(tmp_path / "stock", tmp_path / "again", to="llava")
    found = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(found[name], weights[name]) and found[name].dtype == weights[name].dtype for name in weights)


def test_the_stock_folder_answers_in_a_process_without_croc(tmp_path: Path) -> None:
    write(make_original(tmp_path / "original"), tmp_path / "stock")
    script = f"""
import sys
from PIL import Image
from transformers import AutoProcessor, AutoModelForImageTextToText
processor = AutoProcessor.from_pretrained({str(tmp_path / "stock")!r})
model = AutoModelForImageTextToText.from_pretrained({str(tmp_path / "stock")!r})
question = [{{"role": "user", "content": [{{"type": "image"}}, {{"type": "text", "text": "What?"}}]}}]
text = processor.apply_chat_template(question, add_generation_prompt=True)
inputs = processor(images=Image.new("RGB", (80, 40)), text=text, return_tensors="pt")
print(int((inputs.input_ids == model.config.image_token_id).sum()), model.generate(**inputs, max_new_tokens=2).shape[0])
print(text.endswith("USER: <image>\\nWhat? ASSISTANT:"), processor.image_processor.do_pad)
assert not any(name.startswith("croc") for name in sys.modules)
"""
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["16 1", "True True"]


def test_a_model_with_normalised_tokens_is_not_written_as_stock_unless_its_loss_is_allowed(tmp_path: Path) -> None:
    source = make_original(tmp_path / "croc", "croc_llama")
    with pytest.raises(UsageError) as caught:
        write(source, tmp_path / "stock")
    assert "L2-normalises its visual tokens, which stock LLaVA cannot express" in caught.value.message
    assert "instead of 1, logits differ by up to 0." in caught.value.message
    assert "--allow-loss" in str(caught.value.hint)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["croc"]

    [said] = write(source, tmp_path / "stock", allow_loss=True)
    assert said.startswith("warning: it L2-normalises")
    model = load_for_inference(tmp_path / "stock")
    assert max(largest_difference(model.llava, "croc_llama", number) for number in (0, 1)) < 1e-4
    verify_hashes(tmp_path / "stock")
    assert read_metadata(tmp_path / "stock").visual_norm == "l2"


def test_croc_s_own_checkpoint_goes_into_the_original_layout_and_gives_the_same_logits(tmp_path: Path) -> None:
    source = make_tiny_llava(tmp_path / "tiny", seed=5)
    CheckpointMetadata(stage="finetune", step=1, visual_norm="l2", template="vicuna_v1").write(source)
    [said] = write(source, tmp_path / "original", to="llava")
    assert f"mm_vision_tower is {tmp_path / 'original' / 'vision_tower'}" in said

    config = json.loads((tmp_path / "original" / "config.json").read_text())
    assert (config["model_type"], config["vocab_size"], config["image_aspect_ratio"]) == ("croc_llama", 320, "pad")
    about = json.loads((tmp_path / "original" / "tokenizer_config.json").read_text())
    assert about["tokenizer_class"] == "PreTrainedTokenizerFast", "transformers 4 reads this layout"
    tokens = json.loads((tmp_path / "original" / "tokenizer.json").read_text())["added_tokens"]
    assert "<image>" not in {token["content"] for token in tokens}
    first, second = load_for_inference(source), load_for_inference(tmp_path / "original")
    inputs = first.processor(images=Image.effect_noise((70, 50), 90), text="<image> What?", return_tensors="pt")
    logits = [model.llava(**inputs).logits[..., :320] for model in (first, second)]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-6)
    pixels = [
        model.processor(images=Image.new("RGB", (70, 50)), text="<image>")["pixel_values"] for model in (first, second)
    ]
    assert pixels[0][0].tolist() == pixels[1][0].tolist()


def test_a_stock_folder_of_pickles_becomes_safetensors(tmp_path: Path) -> None:
    source = make_tiny_llava(tmp_path / "tiny")
    weights = load_file(source / "model.safetensors")
    torch.save(weights, source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="croc convert .* writes it as safetensors"):
        load_for_inference(source)
    write(source, tmp_path / "safe")
    llava = load_for_inference(tmp_path / "safe").llava
    assert torch.equal(llava.lm_head.weight, weights["language_model.lm_head.weight"])


def test_a_destination_that_is_there_is_left_alone(tmp_path: Path) -> None:
    source = make_original(tmp_path / "original")
    (tmp_path / "stock").mkdir()
    (tmp_path / "stock" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="stock already exists"):
        write(source, tmp_path / "stock")
    assert [file.name for file in (tmp_path / "stock").iterdir()] == ["mine.txt"]


def test_a_stock_folder_with_weights_missing_or_too_many_is_refused(tmp_path: Path) -> None:
    source = make_tiny_llava(tmp_path / "tiny")
    weights = load_file(source / "model.safetensors")
    bias = weights.pop("multi_modal_projector.linear_2.bias")
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=r"1 weight is missing \(model\.multi_modal_projector\.linear_2\.bias\)"):
        write(source, tmp_path / "out")
    save_file(
        weights | {"multi_modal_projector.linear_2.bias": bias, "extra.weight": torch.ones(2)},
        source / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(UsageError, match=r"holds more than a LLaVA: 1 weight is unexpected, such as extra\.weight"):
        load_for_inference(source)


@pytest.mark.parametrize("template", ["vicuna_v1", "chat_template", None])
def test_what_the_original_layout_cannot_hold_lies_beside_and_comes_back(tmp_path: Path, template: Any) -> None:
    own = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}</s>{% endfor %}{{ '[assistant]' }}"
    source = make_tiny_llava(tmp_path / "tiny", chat_template=own)
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 9]}))
    (source / "recipe.yaml").write_text("name: mine\n")
    CheckpointMetadata(stage="finetune", step=3, template=template, health={"pool_used": 0.5}).write(source)
    said = write(source, tmp_path / "original", to="llava")
    assert any("no place for this model's chat template" in line for line in said) == (template != "vicuna_v1")
    (tmp_path / "original").rename(tmp_path / "moved")  # its tower is found where it lies now

    original = load_for_inference(tmp_path / "moved")
    assert original.metadata.template == template
    assert original.llava.generation_config.eos_token_id == [2, 9]
    write(tmp_path / "moved", tmp_path / "again")
    first, last = load_for_inference(source), load_for_inference(tmp_path / "again")
    question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    if template is None:
        assert first.processor.apply_chat_template(question) == last.processor.apply_chat_template(question)
    assert ChatSession(first, max_tokens=3).ask("What?") == ChatSession(last, max_tokens=3).ask("What?")
    about = read_metadata(tmp_path / "again")
    assert (about.stage, about.step, about.health) == ("finetune", 3, {"pool_used": 0.5})
    assert (tmp_path / "again" / "recipe.yaml").read_text() == "name: mine\n"


def test_a_tower_that_is_nowhere_is_written_so_that_the_folder_opens_again(tmp_path: Path) -> None:
    source = make_original(tmp_path / "original", mm_vision_tower="/their/disk/some-tower")
    stock = OriginalOptions(vision_tower=str(source / "vision_tower"))
    write(source, tmp_path / "stock", original=stock)
    [said] = write(tmp_path / "stock", tmp_path / "again", to="llava")
    assert said.startswith("note: the vision tower /their/disk/some-tower is not here; it is written too, to ")
    load_for_inference(tmp_path / "again")


def test_a_width_of_heads_of_its_own_survives_the_original_layout(tmp_path: Path) -> None:
    source = make_tiny_llava(tmp_path / "tiny")
    config = json.loads((source / "config.json").read_text())
    config["text_config"] |= {"head_dim": 32}
    (source / "config.json").write_text(json.dumps(config))
    llava = LlavaForConditionalGeneration(LlavaConfig.from_pretrained(source))
    llava.save_pretrained(source)
    write(source, tmp_path / "original", to="llava")
    assert load_for_inference(tmp_path / "original").llava.config.text_config.head_dim == 32


def test_a_projector_that_the_original_code_lacks_is_refused(tmp_path: Path) -> None:
    source = make_tiny_llava(tmp_path / "tiny")
    config = json.loads((source / "config.json").read_text()) | {"projector_hidden_act": "relu"}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="a projector with GELU and biases"):
        write(source, tmp_path / "original", to="llava")
    assert not (tmp_path / "original").exists()


def test_names_that_a_broken_save_made_are_repaired(tmp_path: Path) -> None:
    source = make_tiny_llava(tmp_path / "tiny")
    weights = load_file(source / "model.safetensors")
    for wrong in ("language_model.model.model.", "module.model.language_model.model.", "model.language_model.model."):
        spoilt = {
            name.replace("language_model.model.", wrong) if "language_model.model." in name else f"module.{name}": one
            for name, one in weights.items()
        }
        save_file(spoilt, source / "model.safetensors", {"format": "pt"})
        destination = tmp_path / wrong
        write(source, destination)
        found = load_for_inference(destination).llava.state_dict()
        assert torch.equal(
            found["model.language_model.embed_tokens.weight"], weights["language_model.model.embed_tokens.weight"]
        )


def test_two_weights_that_would_be_one_are_refused(tmp_path: Path) -> None:
    source = make_tiny_llava(tmp_path / "tiny")
    weights = load_file(source / "model.safetensors")
    name = "language_model.model.norm.weight"
    save_file(weights | {f"module.{name}": weights[name] + 1}, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="holds two weights that are one to a LLaVA"):
        write(source, tmp_path / "out")


@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma"])
def test_end_tokens_and_chat_template_of_an_older_checkpoint_are_mended(tmp_path: Path, name: str) -> None:
    source = make_tiny_llava(tmp_path / "old")
    tokenizer = make_tiny_tokenizer(vocab_size=300)
    tokens = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer.add_tokens([*tokens, "<start_of_turn>", "<end_of_turn>"], special_tokens=True)
    tokenizer.add_tokens([f"<{number}>" for number in range(321 - len(tokenizer))])
    assert len(tokenizer) <= 321
    end = tokenizer.convert_tokens_to_ids(END_TOKENS[name])
    tokenizer.chat_template = "{# older #}" + CHAT_TEMPLATES[name]
    make_tiny_processor(tokenizer=tokenizer, chat_template=tokenizer.chat_template).save_pretrained(source)
    config = json.loads((source / "config.json").read_text())
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    (source / "config.json").write_text(json.dumps(config | {"image_token_id": image_id}))
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    CheckpointMetadata(template="chat_template", extra={LLM_TEMPLATE_KEY: CHAT_TEMPLATES[name]}).write(source)

    assert load_for_inference(source).llava.generation_config.eos_token_id == sorted({2, end}), "chat and eval stop"
    write(source, tmp_path / "new")
    assert json.loads((tmp_path / "new" / "generation_config.json").read_text())["eos_token_id"] == sorted({2, end})
    assert (tmp_path / "new" / "chat_template.jinja").read_text() == with_pictures(CHAT_TEMPLATES[name])


def fake_llama_cpp(folder: Path, *, fails: bool = False) -> Path:
    """Stand-ins for llama.cpp's two converters that write down how they were called."""
    script = "import sys, json; open({log!r}, 'a').write(json.dumps(sys.argv[1:]) + chr(10)); sys.exit({code})"
    for name in ("convert_hf_to_gguf.py", "tools/mtmd/legacy-models/convert_image_encoder_to_gguf.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(script.format(log=str(folder / "calls"), code=3 if fails else 0))
    return folder


def test_gguf_writes_the_parts_and_calls_both_converters(tmp_path: Path) -> None:
    llama_cpp, out = fake_llama_cpp(tmp_path / "llama.cpp"), tmp_path / "out"
    said = write(make_original(tmp_path / "original"), out, to="gguf", gguf=GgufOptions(llama_cpp))
    llm, tower = [json.loads(line) for line in (llama_cpp / "calls").read_text().splitlines()]
    assert llm == [str(out / "llm"), "--outtype", "f16", "--outfile", str(out / "llm-f16.gguf")]
    assert tower[:3] == ["-m", str(out / "vision_tower"), "--clip-model-is-vision"]
    assert tower[3:7] == ["--llava-projector", str(out / "llava.projector"), "--output-dir", str(out)]
    assert any("convert_hf_to_gguf.py" in line for line in said)
    template = json.loads((out / "llm" / "tokenizer_config.json").read_text())["chat_template"]
    assert "USER:" in template  # the original code's checkpoints are prompted by vicuna_v1

    weights = golden_weights("llava_llama")
    part = load_file(out / "llm" / "model.safetensors")
    assert torch.equal(part["model.embed_tokens.weight"], weights["model.embed_tokens.weight"])
    projector = torch.load(out / "llava.projector", weights_only=True)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in projector.items())
    assert len(projector) == 4
    tower_weights = load_file(out / "vision_tower" / "model.safetensors")
    assert "vision_model.embeddings.class_embedding" in tower_weights


def test_without_llama_cpp_the_exact_commands_are_said(tmp_path: Path) -> None:
    said = write(make_original(tmp_path / "original"), tmp_path / "out", to="gguf")
    assert any(line.startswith("  python llama.cpp/convert_hf_to_gguf.py") for line in said)
    assert not list(tmp_path.glob("out/*.gguf"))
    assert len({file.stat().st_mode for file in tmp_path.glob("out/*/*.*")}) == 1  # weights have that of other files


def test_a_converter_that_fails_is_reported_and_the_parts_stay(tmp_path: Path) -> None:
    options = GgufOptions(fake_llama_cpp(tmp_path / "llama.cpp", fails=True))
    with pytest.raises(RunError, match="converter failed with exit code 3"):
        write(make_original(tmp_path / "original"), tmp_path / "out", to="gguf", gguf=options)
    assert (tmp_path / "out" / "llava.projector").exists()


def test_gguf_refuses_what_llama_cpp_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="L2-normalises its visual tokens, which llama.cpp cannot express"):
        write(make_original(tmp_path / "croc", "croc_llama"), tmp_path / "out", to="gguf")
    with pytest.raises(UsageError, match=r"is not a llama\.cpp folder: it has no convert_hf_to_gguf\.py"):
        write(make_original(tmp_path / "llava"), tmp_path / "out", to="gguf", gguf=GgufOptions(tmp_path))
    with pytest.raises(UsageError, match="nowhere is not a Python interpreter"):
        write(tmp_path / "llava", tmp_path / "out", to="gguf", gguf=GgufOptions(python=tmp_path / "nowhere"))
    assert not (tmp_path / "out").exists()
