import json
from pathlib import Path

import pytest

from croc_cli.recipe.load import load_recipe
from tests.recipe.recipes import child, errors_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "finetune: {template: qwen_1_5, trained_tokens: everything}",
            "finetune.trained_tokens: must be one of answers, turns, not 'everything'",
        ),
        (
            "finetune: {trained_tokens: turns}",
            "finetune.trained_tokens: turns is for templates qwen_1_5 and plain, not vicuna_v1; leave it out",
        ),
        (
            "reconstruct: {template: chat_template, control_tokens_in_text: true}",
            "reconstruct.control_tokens_in_text: is for templates qwen_1_5 and plain, not chat_template; leave it out",
        ),
        (
            "align: {system_prompt: Be brief.}",
            "align.system_prompt: is for template qwen_1_5; plain brings its own system sentence; leave it out",
        ),
        (
            "finetune: {template: qwen_1_5, system_prompt: 'Look at <image>.'}",
            "finetune.system_prompt: holds <image>, which the template itself writes; leave that out",
        ),
        (
            "reconstruct: {matching_scope: batch}",
            "reconstruct.matching_scope: must be one of image, sample, not 'batch'",
        ),
        (
            "reconstruct: {matching_scope: sample, matching: nearest}",
            "reconstruct.matching_scope: sample is for matching hungarian; by nearest each token chooses on its own;"
            " leave it out",
        ),
        (
            "reconstruct: {matching_scope: sample, batch: {global_size: 8, micro_size: 4, packing: true}}",
            "reconstruct.matching_scope: sample needs a row for each sample, and packing puts several into one; leave"
            " one of them out",
        ),
        (
            "align: {image_aspect: stretch}",
            "align.image_aspect: must be one of pad, square, squeeze, not 'stretch'",
        ),
        (
            "model: {image_resampling: bicubical}",
            "model.image_resampling: must be one of tower, nearest, bilinear, bicubic, lanczos, not 'bicubical'; did"
            " you mean bicubic?",
        ),
    ],
)
def test_an_option_that_the_template_or_tower_does_not_know_is_named(tmp_path: Path, text: str, expected: str) -> None:
    assert errors_of(child(tmp_path, text)) == [f"mine.yaml:2: {expected}"]


def test_a_disabled_stage_is_not_looked_at(tmp_path: Path) -> None:
    load_recipe(str(child(tmp_path, "finetune: {trained_tokens: turns, enabled: false}")), environ={})


def test_an_llm_whose_tokenizer_lacks_the_control_tokens_is_found_where_it_is_here(tmp_path: Path) -> None:
    text = "model: {llm: llm}\nfinetune: {template: qwen_1_5}"
    path = child(tmp_path, text.replace("llm: llm", f"llm: {tmp_path / 'llm'}"))
    load_recipe(str(path), environ={})  # nothing is known of it
    (tmp_path / "llm").mkdir()
    file = tmp_path / "llm" / "tokenizer.json"
    file.write_text(json.dumps({"added_tokens": [{"content": "<s>"}]}))
    assert errors_of(path) == [
        "mine.yaml:3: finetune.template: qwen_1_5 writes <|im_start|>, which the tokenizer in llm lacks; use vicuna_v1"
        " or chat_template"
    ]
    file.write_text(json.dumps({"added_tokens": [{"content": "<|im_start|>"}]}))
    load_recipe(str(path), environ={})


def test_stages_that_share_kept_features_but_not_the_preparation_get_a_note(tmp_path: Path) -> None:
    rows = "{kind: llava_json, path: a.json, image_folder: b}"
    data = f"data: {{cache_features: kept, align: {rows}, reconstruct: {rows}, finetune: {rows}}}"
    loaded = load_recipe(str(child(tmp_path, data + "\nalign: {image_aspect: squeeze}")), environ={})
    assert loaded.notes == (
        "data.cache_features: image_aspect differs (align squeeze, reconstruct pad, finetune pad), so a picture's"
        " features are computed and kept once for each",
    )
    assert load_recipe(str(child(tmp_path, data)), environ={}).notes == ()
