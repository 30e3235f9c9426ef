"""DeepSpeed's config from a recipe: pure, the same on one CPU process as on many nodes."""

from typing import Any

from croc_cli.errors import RecipeError
from croc_cli.names import StageName
from croc_cli.recipe.checks import check_batches
from croc_cli.recipe.deepspeed_block import block_issues, gradient_dtype, lay_over, layer_bucket
from croc_cli.recipe.facts import model_facts
from croc_cli.recipe.schema import Recipe, StageRecipe

NEVER = 10**9
"""Steps between two of DeepSpeed's own progress lines; croc has its own."""


def deepspeed_config(
    recipe: Recipe, stage: StageName, *, num_ranks: int, stage_folder: str, on_gpu: bool
) -> dict[str, Any]:
    """Return the JSON that DeepSpeed is given for one stage.

    Args:
        recipe: The resolved recipe.
        stage: The stage.
        num_ranks: Ranks of the whole run.
        stage_folder: Where TensorBoard's files go, if the recipe asks for them.
        on_gpu: Whether ranks compute on GPUs; the overlap of communication and pinned memory are of use there only.

    Raises:
        RecipeError: The global batch does not divide, offload and ZeRO stage do not fit together, or the stage's
            `deepspeed` block contradicts the recipe's own keys.
    """
    section = recipe.stage(stage)
    check_batches(recipe, (stage,), num_ranks=num_ranks)
    batch = section.batch
    per_pass = batch.micro_size * num_ranks
    # A packed step has as many passes as its rows take; DeepSpeed is told of one, and croc tells it the last one.
    rounds = 1 if batch.packing else batch.global_size // per_pass
    config: dict[str, Any] = {
        "train_batch_size": rounds * per_pass,
        "train_micro_batch_size_per_gpu": batch.micro_size,
        "gradient_accumulation_steps": rounds,
        "gradient_clipping": section.optimizer.clip_norm,
        "bf16": {"enabled": section.precision == "bf16"},
        "zero_optimization": zero_config(section, key=stage, on_gpu=on_gpu),
        "zero_allow_untested_optimizer": True,
        "steps_per_print": NEVER,
        "wall_clock_breakdown": False,
    }
    if section.offload != "none":
        config["zero_force_ds_cpu_optimizer"] = False
    if section.zero_stage >= 1:
        config["data_types"] = {"grad_accum_dtype": gradient_dtype(section)}
    llm = model_facts(recipe.model).llm
    if section.zero_stage == 3 and llm is not None and llm.hidden_size is not None:
        bucket = layer_bucket(llm.hidden_size)
        config["zero_optimization"] |= {"reduce_bucket_size": bucket, "stage3_prefetch_bucket_size": bucket}
    config.update(monitor_config(recipe, stage, stage_folder=stage_folder))
    if issues := list(block_issues(recipe, stage, section)):
        raise RecipeError("\n".join(str(issue) for issue in issues))
    return lay_over(config, section.deepspeed)


def zero_config(section: StageRecipe, *, key: str, on_gpu: bool) -> dict[str, Any]:
    """Return the `zero_optimization` block.

    Raises:
        RecipeError: Offload of something that the ZeRO stage does not partition.
    """
    needed = {"none": 0, "optimizer": 1, "all": 3}[section.offload]
    if section.zero_stage < needed:
        raise RecipeError(
            f"{key}.offload: {section.offload} needs {key}.zero_stage {needed} or more, not {section.zero_stage}",
            hint=f"--set {key}.zero_stage={needed}, or --set {key}.offload=none",
        )
    config: dict[str, Any] = {"stage": section.zero_stage}
    if section.zero_stage >= 1:
        config |= {"overlap_comm": on_gpu, "contiguous_gradients": True, "reduce_scatter": True}
    if section.zero_stage == 3:
        # Without it a ZeRO-3 checkpoint holds no weights that stock from_pretrained can open.
        config["stage3_gather_16bit_weights_on_model_save"] = True
    if section.offload != "none":
        config["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpu}
    if section.offload == "all":
        config["offload_param"] = {"device": "cpu", "pin_memory": on_gpu}
    return config


def monitor_config(recipe: Recipe, stage: StageName, *, stage_folder: str) -> dict[str, Any]:
    """Return the blocks of DeepSpeed's monitor that the recipe switches on; trackio is croc's own."""
    config: dict[str, Any] = {}
    if "tensorboard" in recipe.monitor:
        config["tensorboard"] = {"enabled": True, "output_path": stage_folder, "job_name": "tensorboard"}
    if "wandb" in recipe.monitor:
        names = recipe.tracking
        wandb = {"project": names.project, "team": names.team, "group": names.group or f"{recipe.name}-{stage}"}
        config["wandb"] = {"enabled": True} | {key: value for key, value in wandb.items() if value is not None}
    return config
