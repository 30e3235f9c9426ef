import os
import subprocess
import sys

import pytest

from croc_cli.errors import RecipeError
from croc_cli.launch.deepspeed_config import deepspeed_config, zero_config
from tests.launch.make import recipe


def test_the_global_batch_is_micro_batches_times_ranks_times_accumulation() -> None:
    config = deepspeed_config(recipe("croc-7b"), "reconstruct", num_ranks=8, stage_folder="runs/x", on_gpu=True)
    assert config["train_batch_size"] == 128
    assert config["train_micro_batch_size_per_gpu"] == 4
    assert config["gradient_accumulation_steps"] == 4
    assert config["bf16"] == {"enabled": True}
    assert config["zero_optimization"]["stage"] == 3
    assert config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
    assert "tensorboard" not in config
    assert "wandb" not in config


def test_a_batch_that_does_not_divide_is_refused_before_deepspeed_sees_it() -> None:
    with pytest.raises(RecipeError, match=r"128 is not a multiple of micro_size × ranks = 4 × 6 = 24"):
        deepspeed_config(recipe("croc-7b"), "reconstruct", num_ranks=6, stage_folder="x", on_gpu=True)


def test_packed_rows_need_not_divide_and_deepspeed_is_told_of_one_pass() -> None:
    made = recipe("croc-7b", reconstruct__batch__packing=True)
    config = deepspeed_config(made, "reconstruct", num_ranks=6, stage_folder="x", on_gpu=True)
    assert (config["train_batch_size"], config["train_micro_batch_size_per_gpu"]) == (24, 4)
    assert config["gradient_accumulation_steps"] == 1


def test_offload_goes_where_the_recipe_says_and_only_with_a_zero_stage_that_can() -> None:
    sections = recipe("croc-7b", reconstruct__offload="all")
    zero = deepspeed_config(sections, "reconstruct", num_ranks=8, stage_folder="x", on_gpu=True)["zero_optimization"]
    assert zero["offload_optimizer"]["device"] == zero["offload_param"]["device"] == "cpu"
    section = recipe("croc-7b").align.model_copy(update={"offload": "all", "zero_stage": 2})
    with pytest.raises(RecipeError, match=r"align\.offload: all needs align\.zero_stage 3 or more, not 2"):
        zero_config(section, key="align", on_gpu=True)


def test_gradients_are_added_up_in_fp32_where_deepspeed_can() -> None:
    def dtype(**changes: object) -> object:
        made = recipe("croc-7b", **changes)
        config = deepspeed_config(made, "reconstruct", num_ranks=8, stage_folder="x", on_gpu=True)
        return config.get("data_types", {}).get("grad_accum_dtype")

    assert dtype() == dtype(reconstruct__zero_stage=1) == "fp32"
    assert dtype(reconstruct__gradient_dtype="bf16") == "bf16"
    assert dtype(reconstruct__zero_stage=0) is None
    with pytest.raises(RecipeError, match=r"gradient_dtype: fp32 needs ZeRO .* zero_stage 1 or more, not 0"):
        dtype(reconstruct__zero_stage=0, reconstruct__gradient_dtype="fp32")


@pytest.mark.parametrize(
    ("llm", "numbers"), [("lmsys/vicuna-7b-v1.5", 201_326_592), ("lmsys/vicuna-13b-v1.5", 314_572_800)]
)
def test_under_zero_3_a_bucket_holds_a_decoder_layer(llm: str, numbers: int) -> None:
    made = recipe("croc-7b", model__llm=llm)
    zero = deepspeed_config(made, "reconstruct", num_ranks=8, stage_folder="x", on_gpu=True)["zero_optimization"]
    assert zero["reduce_bucket_size"] == zero["stage3_prefetch_bucket_size"] == numbers
    align = deepspeed_config(made, "align", num_ranks=8, stage_folder="x", on_gpu=True)
    assert "reduce_bucket_size" not in align["zero_optimization"]


def test_a_deepspeed_block_is_laid_over_the_config_key_by_key() -> None:
    block = {
        "zero_optimization": {"overlap_comm": False, "reduce_bucket_size": 5e7, "stage": 3},
        "train_batch_size": "auto",
        "comms_logger": {"enabled": True},
    }
    made = recipe("croc-7b", reconstruct__deepspeed=block)
    config = deepspeed_config(made, "reconstruct", num_ranks=8, stage_folder="x", on_gpu=True)
    assert config["zero_optimization"]["overlap_comm"] is False
    assert config["zero_optimization"]["reduce_bucket_size"] == 5e7
    assert config["zero_optimization"]["contiguous_gradients"] is True
    assert config["train_batch_size"] == 128
    assert config["comms_logger"] == {"enabled": True}


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            {"train_batch_size": 64},
            "64 contradicts reconstruct.batch.global_size, which makes it 128",
        ),
        ({"zero_optimization": {"stage": 2}}, "stage: 2 contradicts reconstruct.zero_stage, which makes it 3"),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            "device: 'cpu' contradicts reconstruct.offload, which makes it none",
        ),
        ({"fp16": {"enabled": True}}, "enabled: True contradicts reconstruct.precision, which makes it false"),
        ({"gradient_clipping": 0.5}, "0.5 contradicts reconstruct.optimizer.clip_norm, which makes it 1.0"),
        ({"data_types": {"grad_accum_dtype": "bf16"}}, "'bf16' contradicts reconstruct.gradient_dtype"),
        ({"optimizer": {"type": "Adam"}}, "deepspeed.optimizer: reconstruct.optimizer is where this recipe says it"),
        ({"gradient_accumulation_steps": 8}, "gradient_accumulation_steps: follows from reconstruct.batch"),
        ({"wandb": {"enabled": True}}, "enabled: True contradicts monitor, which makes it false"),
    ],
)
def test_a_block_that_contradicts_the_recipe_is_refused_with_both_keys(block: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe("croc-7b", reconstruct__deepspeed=block)
    assert message in str(caught.value)


def test_monitors_are_switched_on_by_the_recipe() -> None:
    watched = recipe(monitor=["tensorboard", "trackio", "wandb"])
    config = deepspeed_config(watched, "align", num_ranks=1, stage_folder="runs/nano/align", on_gpu=False)
    assert config["tensorboard"] == {"enabled": True, "output_path": "runs/nano/align", "job_name": "tensorboard"}
    assert config["wandb"] == {"enabled": True, "project": "croc", "group": "nano-align"}
    assert "trackio" not in config  # DeepSpeed does not know it


def test_deepspeed_itself_accepts_every_config() -> None:
    """In a process of its own: DeepSpeed's import takes seconds and changes the process."""
    code = (
        "from deepspeed.runtime.config import DeepSpeedConfig\n"
        "from croc_cli.launch.deepspeed_config import deepspeed_config\n"
        "from tests.launch.make import recipe\n"
        "for name in ('nano', 'croc-7b'):\n"
        "    for stage in ('align', 'reconstruct', 'finetune'):\n"
        "        plan = deepspeed_config(recipe(name), stage, num_ranks=1, stage_folder='x', on_gpu=False)\n"
        "        read = DeepSpeedConfig(plan)\n"
        "        assert read.gradient_accumulation_steps == plan['gradient_accumulation_steps']\n"
        "        assert read.zero_config.stage == plan['zero_optimization']['stage']\n"
        "        assert read.gradient_clipping == plan['gradient_clipping']\n"
    )
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "WORLD_SIZE": "1"}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
