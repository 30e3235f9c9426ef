"""How fast this machine trains: a short measurement in a child process, kept in the cache, in place of a constant.

What is measured are the recipe's own layers, with random weights: one and three layers of LLM and tower, forwards and
backwards over a micro-batch as the stage has it, from which the time of all layers follows.
"""

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from croc_cli.launch.devices import count_cores
from croc_cli.launch.plan import SPIN_TURNS
from croc_cli.names import StageName
from croc_cli.recipe.facts import ModelFacts
from croc_cli.recipe.schema import Recipe, StageRecipe
from croc_cli.run_dir import read_json, write_json
from croc_cli.sources.read.cache import cache_folder

CHILD = "croc_cli.worker.speed"
LONGEST_SECONDS = 180.0
"""A machine on which the measurement takes longer is planned for with the constant."""
FORM = 1
"""Number of what is measured; a new one leaves old measurements aside."""


@dataclass(frozen=True)
class StageSpeed:
    """What was measured for one stage.

    Args:
        micro_seconds: Of a micro-batch, forwards and backwards, without the tower.
        picture_seconds: Of the tower, for one picture; backwards too where the tower is trained.
        update_seconds: Of the optimizer.
        start_seconds: Until a launch's first step: what importing the libraries takes.
    """

    micro_seconds: float
    picture_seconds: float
    update_seconds: float
    start_seconds: float


def stage_case(recipe: Recipe, stage: StageName, facts: ModelFacts, *, tokens: int, device: str) -> dict[str, Any]:
    """Return what the child is to measure for a stage, as plain values.

    Args:
        recipe: The recipe.
        stage: The stage.
        facts: Of its tower and LLM; both known.
        tokens: Of a sample, visual tokens included.
        device: `cpu` or `cuda`.
    """
    assert facts.tower is not None
    assert facts.llm is not None
    section = recipe.stage(stage)
    more: dict[str, Any] = {"trains_tower": True} if "vision_tower" in section.learning_rate.trained() else {}
    if (with_pool := recipe.pool_stage(stage)) is not None:
        more |= {
            "masked": with_pool.mask.num_masked(facts.tower.num_visual_tokens),
            "pool_size": with_pool.pool.size,
            "mixed": with_pool.attention != "causal",
        }
    return {
        "tower": asdict(facts.tower),
        "llm": asdict(facts.llm),
        "micro_size": samples_per_pass(section, tokens=tokens),
        "tokens": tokens,
        "trains_llm": "llm" in section.learning_rate.trained(),
        "checkpointing": section.gradient_checkpointing,
        "precision": section.precision,
        "device": device,
        **more,
    }


def samples_per_pass(section: StageRecipe, *, tokens: int) -> int:
    """Return the samples of a micro-batch; with packing, about as many as its rows have room for.

    Args:
        section: The stage.
        tokens: Of a sample on average, visual tokens included.
    """
    batch, row_tokens = section.batch, section.row_tokens
    return batch.micro_size if row_tokens is None else max(1, batch.micro_size * row_tokens // tokens)


def measured_speeds(
    cases: Mapping[StageName, dict[str, Any]],
    *,
    num_ranks: int,
    threads: int,
    again: bool = False,
    only_kept: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> dict[StageName, StageSpeed] | None:
    """Return the speed of each stage on this machine, from the cache where it was measured before.

    Args:
        cases: What to measure, by stage.
        num_ranks: Ranks that compute at once on this machine, and slow each other down.
        threads: CPU threads of each.
        again: Measure although the cache has it.
        only_kept: Measure nothing.
        say: Told that it is measured now.

    Returns:
        None where it cannot be measured here: a library is missing, or it takes too long; or where nothing is kept.
    """
    found: dict[StageName, StageSpeed] = {}
    files = {stage: _file_of(case, num_ranks, threads) for stage, case in cases.items()}
    for stage, file in files.items():
        if (kept := _kept(file)) is not None and not again:
            found[stage] = kept
    missing = [stage for stage in cases if stage not in found]
    if cases and not missing:
        return found
    if only_kept or not cases:
        return None
    say("measuring how fast this machine trains such layers; kept for the next plan")
    answers = _run_children([cases[stage] for stage in missing], num_ranks=num_ranks, threads=threads)
    if answers is None:
        return None
    for number, stage in enumerate(missing):
        each = [answer[number] for answer in answers]
        found[stage] = StageSpeed(**{key: sum(one[key] for one in each) / len(each) for key in each[0]})
        try:
            write_json(files[stage], {"speed": asdict(found[stage]), "case": cases[stage]})
        except OSError:
            continue  # a cache that cannot be written is measured again next time
    return found


def _kept(file: Path) -> StageSpeed | None:
    """Return the speed that a file of the cache holds; None where it is missing, damaged or of another version."""
    kept = read_json(file).get("speed")
    names = {field.name for field in fields(StageSpeed)}
    if not isinstance(kept, dict) or kept.keys() != names:
        return None
    numbers = [isinstance(value, float | int) and math.isfinite(value) and value >= 0 for value in kept.values()]
    return StageSpeed(**kept) if all(numbers) else None


def _run_children(
    cases: Sequence[dict[str, Any]], *, num_ranks: int, threads: int
) -> list[list[dict[str, float]]] | None:
    """Run as many children as ranks at once, and return what each measured; None where one failed."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    environment.setdefault("GOMP_SPINCOUNT", SPIN_TURNS)  # as ranks have it
    command = [sys.executable, "-m", CHILD]
    children = []
    try:
        for _ in range(min(num_ranks, count_cores())):
            children.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
            )
        for child in children:
            assert child.stdin is not None
            child.stdin.write(json.dumps(list(cases)))
            child.stdin.close()
            child.stdin = None
        answers = [json.loads(child.communicate(timeout=LONGEST_SECONDS)[0]) for child in children]
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    finally:
        for child in children:
            child.kill()
            child.wait()
    return answers


def _file_of(case: dict[str, Any], num_ranks: int, threads: int) -> Path:
    """Return the cache's file of a measurement: for this processor, these versions, these sizes."""
    made_of = {"form": FORM, "case": case, "ranks": num_ranks, "threads": threads, "machine": _machine()}
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:24]
    return cache_folder() / "speed" / f"{digest}.json"


def _machine() -> list[str]:
    """Return what tells machines apart whose speed may differ: processor, cores, torch."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = ""
    return [name, str(count_cores()), torch]
