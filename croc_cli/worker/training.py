"""A training stage on one rank: find the start, build, calibrate, wrap in DeepSpeed, resume, train, sum up."""

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from transformers.integrations import HfDeepSpeedConfig

from croc_cli.checkpoint.metadata import (
    LLM_TEMPLATE_KEY,
    TOWER_TRAINED_KEY,
    CheckpointMetadata,
    StartPoint,
    read_metadata,
    weights_sha256,
)
from croc_cli.checkpoint.opened import load_training_state, without_prefix
from croc_cli.checkpoint.save import remove_leftovers
from croc_cli.checkpoint.validate import naming
from croc_cli.data.collate import build_data_loader
from croc_cli.data.processor_template import chat_template_for
from croc_cli.files import own_path
from croc_cli.launch.data_record import keep_data_record
from croc_cli.launch.job import find_free_port
from croc_cli.launch.joined import slurm_rendezvous
from croc_cli.launch.live import PlainLines
from croc_cli.launch.ops import needed_ops
from croc_cli.model.token_pool import initialise_pool
from croc_cli.model.vision_tower import unused_weights
from croc_cli.names import TRAINING_STATE_FILE, StageName
from croc_cli.recipe.load import load_resolved
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import StageDir, read_json, read_jsonl, write_json
from croc_cli.train.ahead import why_not_ahead
from croc_cli.train.collectives import barrier
from croc_cli.train.metrics import JsonLines
from croc_cli.train.monitors import Monitors, Trackio
from croc_cli.train.optimizer import (
    TOWER_PREFIX,
    LearningRateSchedule,
    build_optimizer,
    check_by_norm_alone,
    freeze_all_but,
    parameter_groups,
)
from croc_cli.train.position import POSITION
from croc_cli.train.saving import AWAY_SECONDS, CheckpointSaver, checkpoint_to_resume, load_resume
from croc_cli.train.state import TrainerState, health_of
from croc_cli.train.trainer import Trainer
from croc_cli.train.zero3 import keep_whole, set_leaves
from croc_cli.worker.build import StageParts, build_stage
from croc_cli.worker.calibrate import calibration_tokens
from croc_cli.worker.device import chosen_device
from croc_cli.worker.during import during_evaluation
from croc_cli.worker.features import use_feature_cache
from croc_cli.worker.held_out import held_out_measure
from croc_cli.worker.layers import fuse_layers
from croc_cli.worker.ops import prepare_ops
from croc_cli.worker.preflight import FirstSaveOnly, Preflight
from croc_cli.worker.sound import check_sound
from croc_cli.worker.start import find_start
from croc_cli.worker.watch import watch_this_rank

COLLECTIVE_GRACE_SECONDS = 60.0
"""How much longer than `launch.stall_timeout` a collective may take."""


def set_up_ranks(device: str, *, stall_timeout: float, ops: Sequence[str]) -> None:
    """Join the other ranks; a process that nobody launched is a run of one rank.

    Args:
        device: Where this rank computes.
        stall_timeout: Seconds for which nothing may move on any rank. A collective gets `COLLECTIVE_GRACE_SECONDS`
            more, so that ranks that hang are found, and write their stacks, before a library ends one of them.
        ops: Operators that DeepSpeed will load.
    """
    prepare_ops(ops)
    limit = timedelta(seconds=stall_timeout + COLLECTIVE_GRACE_SECONDS)
    # What groups get that DeepSpeed makes later; its own ten minutes are for the first group alone.
    for name in ("default_pg_timeout", "default_pg_nccl_timeout"):
        if getattr(dist.distributed_c10d, name, None) is not None:
            setattr(dist.distributed_c10d, name, limit)
    if "RANK" not in os.environ and "SLURM_PROCID" in os.environ:
        os.environ.update(slurm_rendezvous(os.environ))
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in alone.items():
        os.environ.setdefault(name, value)
    if "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = str(find_free_port())
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    POSITION.at("joining the other ranks")
    deepspeed.init_distributed(dist_backend="nccl" if device == "cuda" else "gloo", timeout=limit, verbose=False)


def run_training(
    stage_dir: StageDir,
    stage: StageName,
    *,
    start: Path | None,
    show_progress: bool = False,
    is_preflight: bool = False,
) -> None:
    """Train a stage to its end, or to the request to stop.

    Args:
        stage_dir: Where recipe.yaml and deepspeed.json are.
        stage: Which stage.
        start: Checkpoint to start from; None assembles one from the recipe's tower and LLM.
        show_progress: Print lines on rank 0's stderr: no parent watches a launch that croc only joined.
        is_preflight: Take the longest samples, with the checks of `croc_cli.worker.preflight`.
    """
    recipe = load_resolved(stage_dir.recipe_file)
    section = recipe.stage(stage)
    device = chosen_device(recipe.launch.device)
    lines = PlainLines(stage, sys.stderr) if show_progress else None
    watcher = watch_this_rank(stage_dir, stall_timeout=recipe.launch.stall_timeout, lines=lines)
    ops = needed_ops(recipe, stage, device=device)
    set_up_ranks(device, stall_timeout=recipe.launch.stall_timeout, ops=ops)
    on_main = dist.get_rank() == 0
    deepspeed_config = json.loads(stage_dir.deepspeed_file.read_text(encoding="utf-8"))
    if on_main:
        remove_leftovers(stage_dir.checkpoints)  # and put back a checkpoint that a killed save was replacing
    barrier()
    events = JsonLines(
        stage_dir.events_file, enabled=on_main, echo=(lambda event: lines.message(event["message"])) if lines else None
    )

    def say(message: str) -> None:
        events.write(time=time.time(), level="info", message=message)

    start_folder = find_start(recipe, stage_dir, stage, start=start, say=say)
    stopped_at = checkpoint_to_resume(stage_dir.checkpoints)
    check_sound(start_folder, stopped_at)
    if on_main and not is_preflight:
        keep_data_record(recipe, stage, stage_dir, resumes=stopped_at is not None)
    # Transformers asks this object whether weights are to be partitioned as they are loaded; it must outlive the load.
    partitioning = HfDeepSpeedConfig(deepspeed_config) if section.zero_stage == 3 else None
    with POSITION.working("loading the model", "loaded the model", opaque=True):
        parts = build_stage(
            recipe,
            stage,
            start=start_folder,
            weights=stopped_at or start_folder,
            rank=dist.get_rank(),
            num_ranks=dist.get_world_size(),
            chat_template=chat_template_for(section.template, section.system_prompt),
            device="cpu" if section.zero_stage == 3 or device == "cpu" else f"{device}:{torch.cuda.current_device()}",
            on_gpu=device == "cuda",
        )
    del partitioning
    say(f"attention kernel: {parts.attention}")
    preflight = Preflight(recipe, stage, stage_dir, parts, device=device) if is_preflight else None
    POSITION.watch_modules(parts.module)
    POSITION.at("preparing pool, head and features")
    prepare_pool_and_head(parts, recipe, stage, stopped_at=stopped_at, device=device)
    if preflight is not None:
        preflight.begin()
    if recipe.data.cache_features is not None:
        use_feature_cache(parts, own_path(recipe.data.cache_features), device=device, say=say)
    with POSITION.working("making the engine", "made the engine", opaque=True):
        engine = build_engine(parts, recipe, stage, deepspeed_config, device=device)
    reason = why_not_ahead(parts.module.model, torch.device(engine.device))
    if reason is not None and parts.module.model.pool is not None:
        say(f"each micro-batch waits for its own assignment: {reason}")
    fuse_layers(recipe, stage, parts.module.model.llava.model.language_model, device=device, say=say)
    with POSITION.working("loading the optimizer's state", "loaded the optimizer's state", opaque=True):
        state = load_resume(engine, stopped_at) if stopped_at else TrainerState()
    if 0 < state.step < parts.settings.num_steps and preflight is None:
        say(f"resuming at step {state.step + 1} of {parts.settings.num_steps}")
    metrics = JsonLines(stage_dir.metrics_file, enabled=on_main, echo=lines.metrics if lines else None)
    metrics.drop_after(state.step)
    if on_main:
        for file in stage_dir.samples_files():
            JsonLines(file).drop_after(state.step)
    barrier()
    metadata = checkpoint_metadata(recipe, stage, start_folder)
    saver = CheckpointSaver(
        engine,
        parts.processor,
        stage_dir.checkpoints,
        recipe_yaml=stage_dir.recipe_file.read_text(encoding="utf-8"),
        keep=section.keep_checkpoints,
        mark=stage_dir.recipe_file,
        patience=min(AWAY_SECONDS, recipe.launch.stall_timeout / 2),  # the others wait, and must not seem to hang
        metadata=metadata,
        best=stage_dir.best_checkpoint,
    )
    held_out = during = None
    if preflight is None:
        during = during_evaluation(recipe, parts, stage_dir, metadata, device=torch.device(engine.device))
        if during is not None and on_main:
            during.drop_after(state.step)
        held_out = held_out_measure(
            recipe, stage, parts.module, parts.loader.collator, device=torch.device(engine.device)
        )
    monitors = None
    if on_main:
        trackio = make_trackio(recipe, stage, stage_dir, resumes=state.step > 0, events=events)
        monitors = Monitors(engine.monitor, trackio)
    trainer = Trainer(
        engine,
        replace(parts.settings, assigns_ahead=reason is None),
        schedule=LearningRateSchedule(
            section.optimizer.schedule,
            num_steps=parts.settings.num_steps,
            warmup_ratio=section.optimizer.warmup_ratio,
        ),
        state=state,
        saver=FirstSaveOnly(saver, stage_dir.checkpoints, check=preflight.check_saved) if preflight else saver,
        metrics=metrics,
        events=events,
        samples=JsonLines(stage_dir.samples_file(dist.get_rank())),
        held_out=held_out,
        during=during,
        monitors=monitors,
        stop_file=stage_dir.stop_file,
        alone=lambda: watcher.parent_is_gone,
    )
    loader = build_data_loader(
        parts.loader, start_step=state.step, num_workers=recipe.data.num_workers, pin_memory=device == "cuda"
    )
    around = preflight.around(parts.module) if preflight else nullcontext()
    with around, monitors.until_the_end() if monitors else nullcontext():
        last = trainer.run(loader)
    if preflight is not None:
        checkpoint = checkpoint_to_resume(stage_dir.checkpoints)
        assert checkpoint is not None
        preflight.finish(checkpoint=checkpoint, answers=stopped_at is not None)
    if on_main:
        write_summary(stage_dir, stage, trainer, last or last_metrics(stage_dir))
    watcher.stop()


def make_trackio(
    recipe: Recipe, stage: StageName, stage_dir: StageDir, *, resumes: bool, events: JsonLines
) -> Trackio | None:
    """Return the run of trackio that the recipe asks for; None where it does not."""
    if "trackio" not in recipe.monitor:
        return None
    names = recipe.tracking
    return Trackio(
        names.project,
        group=names.group or f"{recipe.name}-{stage}",
        name=f"{stage_dir.root.resolve().parent.name}-{stage}",
        resumes=resumes,
        warn=lambda message: events.write(time=time.time(), level="warning", message=message),
    )


def last_metrics(stage_dir: StageDir) -> dict[str, Any]:
    """Return the figures of the last step, for a run that was killed between its last checkpoint and its summary."""
    rows = list(read_jsonl(stage_dir.metrics_file))
    return rows[-1] if rows else {}


def build_engine(parts: StageParts, recipe: Recipe, stage: StageName, config: dict[str, Any], *, device: str) -> Any:
    """Wrap the stage's module in a DeepSpeed engine that trains the groups with a learning rate."""
    section = recipe.stage(stage)
    llava = parts.module.model.llava
    unused = unused_weights(llava.model.vision_tower, llava.config.vision_feature_layer)
    freeze_all_but(parts.module, parts.settings.learning_rates, without={f"{TOWER_PREFIX}{name}" for name in unused})
    optimizer = build_optimizer(
        parameter_groups(parts.module, parts.settings.learning_rates, weight_decay=section.optimizer.weight_decay),
        betas=section.optimizer.betas,
        eps=section.optimizer.eps,
        offloaded=section.offload != "none",
        on_gpu=device == "cuda",
        # Without ZeRO, DeepSpeed would clip before it measures; the optimizer does both in order.
        clip_norm=section.optimizer.clip_norm if section.zero_stage == 0 else None,
    )
    if section.zero_stage == 0:
        config = config | {"gradient_clipping": 0.0}
    if section.zero_stage == 3:
        set_leaves(parts.module.model)
    engine, *_ = deepspeed.initialize(model=parts.module, optimizer=optimizer, config=config, dist_init_required=False)
    if section.zero_stage == 3:
        keep_whole(engine, parts.module.model)
    check_by_norm_alone(engine.optimizer)
    return engine


def prepare_pool_and_head(
    parts: StageParts, recipe: Recipe, stage: StageName, *, stopped_at: Path | None, device: str
) -> None:
    """Give pool and head their weights: those of the checkpoint to go on from, or a calibrated start."""
    section = recipe.pool_stage(stage)
    model = parts.module.model
    if section is None:
        return
    generator = torch.Generator().manual_seed(section.seed)
    if model.head is not None:
        model.head.to(next(model.llava.parameters()).dtype)
    if stopped_at is not None:
        saved = load_training_state(stopped_at)
        for prefix, module in model.training_parts().items():
            with naming(stopped_at / TRAINING_STATE_FILE):
                module.load_state_dict(without_prefix(saved, prefix))
    elif model.pool is not None:
        tokens = None
        if section.pool.initialisation != "normal":
            tokens = calibration_tokens(parts, pool_size=section.pool.size, device=device, generator=generator)
        initialise_pool(model.pool.weight, tokens, section.pool.initialisation, generator)
    if model.pool is not None:
        model.pool.to(next(model.llava.parameters()).dtype)


def checkpoint_metadata(recipe: Recipe, stage: StageName, start: Path) -> CheckpointMetadata:
    """Return what croc.json says of every checkpoint of this run, but for step, health and hashes."""
    section = recipe.stage(stage)
    came_with = read_metadata(start).extra
    extra = {"recipe": recipe.name} | {key: value for key, value in came_with.items() if key == LLM_TEMPLATE_KEY}
    if "vision_tower" in section.learning_rate.trained() or came_with.get(TOWER_TRAINED_KEY) is True:
        extra[TOWER_TRAINED_KEY] = True
    return CheckpointMetadata(
        stage=stage,
        start=StartPoint(path=str(start), weights_sha256=weights_sha256(start)),
        visual_norm=recipe.model.visual_norm,
        template=section.template,
        system_prompt=section.system_prompt,
        image_aspect=section.image_aspect,
        image_reading=recipe.data.image_reading,
        extra=extra,
    )


def write_summary(stage_dir: StageDir, stage: StageName, trainer: Trainer, last: dict[str, Any]) -> None:
    """Write what a finished stage came to."""
    state = trainer.state
    checkpoint = stage_dir.latest_checkpoint()
    summary = {
        "finished": True,
        "stage": stage,
        "steps": state.step,
        "seconds": state.seconds,
        "save_seconds": state.save_seconds,
        "losses": {key: last.get(key) for key in ("loss", "caption_loss", "reconstruction_loss")},
        "held_out": last.get("held_out"),
        "benchmark": last.get("benchmark"),
        "best": read_json(stage_dir.best_file) or None,
        "health": health_of(last),
        "counts": {
            "truncated_samples": state.truncated,
            "dropped_samples": state.dropped,
            "bad_images": state.bad_images,
            "skipped_steps": state.skipped,
        },
        "peak_memory_bytes": last.get("peak_memory_bytes"),
        "checkpoint": str(checkpoint) if checkpoint else None,
        "time": time.time(),
    }
    write_json(stage_dir.summary_file, read_json(stage_dir.summary_file) | summary)
