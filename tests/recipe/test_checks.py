import json
from pathlib import Path

import pytest

from croc_cli.errors import RecipeError
from croc_cli.names import STAGES
from croc_cli.recipe.checks import check_batches, known_ranks
from croc_cli.recipe.load import load_recipe
from tests.recipe.recipes import child, errors_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "launch: {num_ranks: 3}",
            [
                f"{stage}.batch.global_size: 8 is not a multiple of micro_size × ranks = 4 × 3 = 12; the next that fits"
                " is 12"
                for stage in STAGES
            ],
        ),
        (
            "launch: {num_ranks: 1, slurm: {num_nodes: 4}}",
            [
                f"{stage}.batch.global_size: 8 is not a multiple of micro_size × ranks = 4 × 4 = 16; the next that fits"
                " is 16, or micro_size 2"
                for stage in STAGES
            ],
        ),
        (
            "align: {max_length: 8193}",
            [
                "align.max_length: 8193 is more than the 8192 positions of HuggingFaceTB/SmolLM2-135M-Instruct;"
                " at most 8192 fits"
            ],
        ),
        (
            "align: {max_length: 196}",
            [
                "align.max_length: 196 leaves no room for text beside the 196 visual tokens of an image;"
                " it must be above that"
            ],
        ),
        (
            "finetune: {batch: {row_tokens: 4096}}",
            [
                "finetune.batch.row_tokens: has no effect without packing; set finetune.batch.packing: true, or leave"
                " it out"
            ],
        ),
        (
            "finetune: {batch: {packing: true, row_tokens: 196}}",
            [
                "finetune.batch.row_tokens: 196 leaves no room for text beside the 196 visual tokens of an image; it"
                " must be at least the tokens of the longest sample: 2048 (max_length) always is"
            ],
        ),
        (
            "finetune: {batch: {packing: true}, deepspeed: {train_batch_size: 8}}",
            [
                "finetune.deepspeed.train_batch_size: finetune.batch.global_size is where this recipe says it;"
                " leave it out here"
            ],
        ),
        (
            "launch: {kernels: liger, compile: true}",
            [
                "launch.kernels: liger fuses what torch.compile would; set launch.compile: auto or false, or leave"
                " kernels out"
            ],
        ),
        (
            "model: {vision_feature_layer: -14}",
            ["model.vision_feature_layer: -14 is none of the tower's 13 hidden states; it must be from -13 to 12"],
        ),
        (
            "data: {reconstruct: null}",
            [
                "data.reconstruct: is missing, though the reconstruct stage is enabled; give its data,"
                " or set reconstruct.enabled: false"
            ],
        ),
        (
            "finetune: {template: plain}",
            [
                "finetune.template: plain takes an image and its caption, but data.finetune.task is questions;"
                " use vicuna_v1"
            ],
        ),
        (
            "finetune: {learning_rate: {llm: 0, projector: 0}}",
            ["finetune.learning_rate: trains nothing; set at least one of vision_tower, projector, llm above 0"],
        ),
        (
            "align: {learning_rate: {llm: 1e-5}}",
            ["align.learning_rate.llm: the align stage trains projector only; leave it out"],
        ),
        (
            "finetune: {learning_rate: {token_pool: 1e-5}}",
            [
                "finetune.learning_rate.token_pool: the finetune stage trains vision_tower, projector and llm only;"
                " leave it out"
            ],
        ),
        (
            "align: {learning_rate: {vision_tower: 2e-6}}",
            ["align.learning_rate.vision_tower: the align stage trains projector only; leave it out"],
        ),
        (
            "align: {optimizer: {betas: [0.9, 1.0]}}",
            ["align.optimizer.betas: both must be below 1, not [0.9, 1.0]"],
        ),
        (
            "data: {reconstruct: {kind: llava_json, path: a.json, image_folder: a}, cache_features: kept}\n"
            "align: {enabled: false}\nfinetune: {enabled: false}\nreconstruct: {learning_rate: {vision_tower: 2e-6}}",
            [
                "data.cache_features: keeps what a frozen tower computes, and the reconstruct stage trains it; leave"
                " this out, or reconstruct.learning_rate.vision_tower"
            ],
        ),
        ("align: {offload: all, zero_stage: 2}", ["align.offload: all needs zero_stage 3, not 2"]),
        ("align: {offload: optimizer, zero_stage: 0}", ["align.offload: optimizer needs zero_stage 1 or more, not 0"]),
        (
            "reconstruct: {objectives: {reconstruction_weight: 0, caption_weight: 0}}",
            [
                "reconstruct.objectives.reconstruction_weight: both objectives have weight 0; set this or"
                " reconstruct.objectives.caption_weight above 0"
            ],
        ),
        (
            "reconstruct: {mask: {ratio: 0}}",
            [
                "reconstruct.mask.ratio: 0 masks no token, so there is nothing to reconstruct; the next that fits is"
                " 0.01 (or reconstruct.objectives.reconstruction_weight: 0, or scope: all)"
            ],
        ),
        (
            "reconstruct: {learning_rate: {head: 1e-4}}",
            [
                "reconstruct.learning_rate.head: there is no head to train, as reconstruct.reconstruction.head is none;"
                " leave it out, or choose linear or bert"
            ],
        ),
        (
            "launch: {hostfile: hosts, slurm: {}}",
            ["launch.hostfile: a run is started through a hostfile or through slurm, not both; leave one out"],
        ),
    ],
)
def test_what_does_not_fit_together_is_told_with_what_would(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert errors_of(child(tmp_path, text)) == [f"mine.yaml:2: {line}" for line in expected]


def test_a_recipe_without_a_stage_is_an_error(tmp_path: Path) -> None:
    text = "align: {enabled: false}\nreconstruct: {enabled: false}\nfinetune: {enabled: false}"
    [error] = errors_of(child(tmp_path, text))
    assert error.endswith("no stage is enabled; set at least one of align, reconstruct and finetune")


def test_an_image_must_be_whole_patches(tmp_path: Path) -> None:
    tower = tmp_path / "tower"
    tower.mkdir()
    config = {"model_type": "clip_vision_model", "image_size": 64, "patch_size": 12}
    (tower / "config.json").write_text(json.dumps(config))
    assert errors_of(child(tmp_path, f"model: {{vision_tower: {tower}}}")) == [
        "mine.yaml:2: model.vision_tower: its image size 64 is not a multiple of its patch size 12;"
        " the next that fits is 72"
    ]


@pytest.mark.parametrize(
    ("config", "window"),
    [
        ({"model_type": "mistral", "sliding_window": 64}, 64),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True}, 64),
        ({"model_type": "gemma2", "sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"]}, 64),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": False}, None),
        ({"model_type": "mistral", "sliding_window": None}, None),
        ({"model_type": "qwen3", "sliding_window": 64, "layer_types": ["full_attention"]}, None),
    ],
)
def test_packing_with_an_llm_that_looks_back_less_far_than_a_sample_is_refused(
    tmp_path: Path, config: dict[str, object], window: int | None
) -> None:
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    path = child(tmp_path, f"model: {{llm: {tmp_path / 'llm'}}}\nfinetune: {{batch: {{packing: true}}}}")
    if window is None:
        load_recipe(str(path), environ={})
        return
    [error] = errors_of(path)
    assert "finetune.batch.packing: packing needs an LLM whose layers attend to a whole sample" in error
    assert f"looks back {window} tokens, and finetune.max_length is" in error


@pytest.mark.parametrize(
    "text",
    [
        "reconstruct: {learning_rate: {token_pool: 0}}",  # a frozen pool
        "reconstruct: {mask: {ratio: 0}, reconstruction: {scope: all}}",
        "reconstruct: {mask: {ratio: 0}, objectives: {reconstruction_weight: 0}}",
        "reconstruct: {objectives: {caption_weight: 0}}",
        "reconstruct: {enabled: false, batch: {global_size: 7}, max_length: 1}\ndata: {reconstruct: null}",
        "align: {offload: all, zero_stage: 3}",
        "align: {batch: {packing: true, global_size: 7, micro_size: 2}}\nlaunch: {num_ranks: 3}\n"
        "reconstruct: {batch: {global_size: 12}}\nfinetune: {batch: {global_size: 12}}",  # rows fill up to ranks
        "launch: {num_ranks: 3, hostfile: hosts}",  # the hosts, and so the ranks, are not known yet
        "model: {vision_tower: some/tower, llm: some/llm}\nalign: {max_length: 100000}",
    ],
)
def test_what_is_unusual_but_possible_passes(tmp_path: Path, text: str) -> None:
    load_recipe(str(child(tmp_path, text)), environ={})


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (
            "reconstruct: {pool: {size: 50}}",
            "reconstruct.pool.size: 50 is smaller than the 147 masked tokens of an image, so each pool token may be"
            " used 3 times in it",
        ),
        (
            "reconstruct: {reconstruction: {smooth_l1_beta: 0.5}}",
            "reconstruct.reconstruction.smooth_l1_beta: has no effect, as loss is l2",
        ),
        (
            "reconstruct: {reconstruction: {head: linear}}",
            "reconstruct.learning_rate.head: is 0, so the head keeps its random weights",
        ),
        (
            "model: {vision_tower: some/tower}\n"
            "reconstruct: {reconstruction: {head: bert}, learning_rate: {head: 1e-4}}",
            "reconstruct.reconstruction.head: bert learns one position for each visual token, and only the tower's"
            " config, which is not at hand, tells how many there are",
        ),
    ],
)
def test_what_is_perhaps_not_meant_is_noted(tmp_path: Path, text: str, note: str) -> None:
    assert load_recipe(str(child(tmp_path, text)), environ={}).notes == (note,)


def test_nearest_may_use_a_small_pool_without_a_note(tmp_path: Path) -> None:
    path = child(tmp_path, "reconstruct: {pool: {size: 50}, matching: nearest}")
    assert load_recipe(str(path), environ={}).notes == ()


def test_batches_are_checked_again_once_the_ranks_are_counted(tmp_path: Path) -> None:
    recipe = load_recipe(str(child(tmp_path, "")), environ={}).recipe
    assert known_ranks(recipe) is None
    check_batches(recipe, ("align",), num_ranks=2)
    with pytest.raises(
        RecipeError, match=r"align\.batch\.global_size: 8 is not a multiple of micro_size × ranks = 4 × 3"
    ):
        check_batches(recipe, ("align",), num_ranks=3)


def test_the_papers_recipe_masks_432_of_576_tokens() -> None:
    assert load_recipe("croc-7b", environ={}).recipe.reconstruct.mask.num_masked(576) == 432
