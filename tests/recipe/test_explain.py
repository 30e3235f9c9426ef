from pathlib import Path

import pytest

from tests.recipe.recipes import SMALL, child, errors_of, write


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chat: {temprature: 1}", "chat.temprature: unknown key; did you mean temperature?"),
        ("reconstruct: {mask: {γ: 1}}", "reconstruct.mask.γ: unknown key; valid here: ratio"),
        ("data: {align: {num_sample: 3}}", "data.align.num_sample: unknown key; did you mean num_samples?"),
        (
            "data: {align: {path: x}}",
            "data.align.path: unknown key; valid here: kind, task, num_samples, text_only_share",
        ),
        ("chat: {max_tokens: many}", "chat.max_tokens: must be a whole number above 0, not 'many'"),
        ("chat: {max_tokens: 0}", "chat.max_tokens: must be a whole number above 0, not 0"),
        ("chat: {max_tokens: 1.5}", "chat.max_tokens: must be a whole number above 0, not 1.5"),
        ("chat: {max_tokens: true}", "chat.max_tokens: must be a whole number above 0, not true"),
        ("chat: {max_tokens: null}", "chat.max_tokens: must be a whole number above 0, not null"),
        ("chat: {max_tokens: [1]}", "chat.max_tokens: must be a whole number above 0, not [1]"),
        ("chat: {temperature: -1}", "chat.temperature: must be a number of 0 or more, not -1"),
        ("chat: {temperature: .inf}", "chat.temperature: must be finite, not inf"),
        ("chat: {temperature: false}", "chat.temperature: must be a number of 0 or more, not false"),
        ("reconstruct: {mask: {ratio: 75}}", "reconstruct.mask.ratio: must be a number from 0 to 1, not 75"),
        ("align: {enabled: maybe}", "align.enabled: must be true or false, not 'maybe'"),
        ("align: {zero_stage: 4}", "align.zero_stage: must be one of 0, 1, 2, 3, not 4"),
        ("align: {zero_stage: true}", "align.zero_stage: must be one of 0, 1, 2, 3, not true"),
        ("align: {max_steps: x}", "align.max_steps: must be a whole number above 0 or null, not 'x'"),
        ("model: {llm: 5}", "model.llm: must be text, not 5"),
        ("model: none", "model: must be a mapping of keys, not 'none'"),
        ("launch: {slurm: 3}", "launch.slurm: must be a mapping of keys, not 3"),
        ("launch: {slurm: {nodes: 3}}", "launch.slurm.nodes: unknown key; did you mean num_nodes?"),
        ("launch: {num_ranks: all}", "launch.num_ranks: must be a whole number above 0 or auto, not 'all'"),
        (
            "monitor: {wandb: {}}",
            "monitor: must be a list, each item one of tensorboard, trackio, wandb, not a mapping",
        ),
        (
            "reconstruct: {matching: hungarain}",
            "reconstruct.matching: must be one of hungarian, nearest, not 'hungarain'; did you mean hungarian?",
        ),
        (
            "align: {optimizer: {betas: [0.9]}}",
            "align.optimizer.betas: must be a list of 2, each a number from 0 to 1, not [0.9]",
        ),
        (
            "align: {optimizer: {betas: [0.9, 2]}}",
            "align.optimizer.betas: must be a list of 2, each a number from 0 to 1, not 2",
        ),
        ("data: {align: {kind: scene}}", "data.align.kind: must be one of llava_json, scenes, mix, not 'scene'"),
        (
            "data: {align: {kind: llava_json, path: x}}",
            "data.align.image_folder: is missing: text; Folder that the rows'",
        ),
        (
            "align: {batch: {global_size: 7, micro_size: 10000000000}}",
            "align.batch.micro_size: must be a whole number above 0, at most 1000000000, not 10000000000",
        ),
        ("align: {epochs: 1.0e+308}", "align.epochs: must be a number above 0, at most 1000000, not 1e+308"),
        (
            "align: {seed: 18446744073709551617}",
            "align.seed: must be a whole number of 0 or more, at most 922337203685",
        ),
        ('model: {llm_revision: "x\\0y"}', "model.llm_revision: must not hold the character '\\x00'"),
        ("runs_folder: " + "x" * 256, "runs_folder: is not a path that a file can have: a name has 255 bytes at most"),
        ("model: {llm: 5" + "5" * 300 + "}", "model.llm: must be text, not a number of more than 80 digits"),
        (
            "align: {template: " + "x" * 300 + "}",
            "align.template: must be one of plain, vicuna_v1, chat_template, qwen_1_5, not 'xx",
        ),
        ("name: ../x", "name: must be letters, digits, dots, dashes and underscores, as it names a folder, not '../x'"),
    ],
)
def test_each_kind_of_error_says_what_would_fit(tmp_path: Path, text: str, message: str) -> None:
    [error] = errors_of(child(tmp_path, text))
    assert error.startswith(f"mine.yaml:2: {message}")


def test_a_missing_key_is_told_with_the_line_of_what_lacks_it(tmp_path: Path) -> None:
    text = SMALL.replace(", micro_size: 4", "", 1)
    assert errors_of(write(tmp_path, text)) == [
        "mine.yaml:7: align.batch.micro_size: is missing: a whole number above 0; Samples per rank per forward pass"
    ]


def test_missing_sections_are_told_all_at_once(tmp_path: Path) -> None:
    text = "".join(line for line in SMALL.splitlines(keepends=True) if not line.startswith("model"))
    text = text[: text.index("finetune:\n")]
    assert errors_of(write(tmp_path, text)) == [
        "model: is missing: a mapping of keys",
        "finetune: is missing: a mapping of keys",
    ]


def test_a_source_without_a_kind_is_told(tmp_path: Path) -> None:
    assert errors_of(
        write(tmp_path, SMALL.replace("{kind: scenes, task: brief_captions", "{task: brief_captions"))
    ) == ["mine.yaml:3: data.align.kind: is missing: one of llava_json, scenes, mix"]
