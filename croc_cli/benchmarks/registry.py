"""The sixteen benchmarks of the paper's Tables 1 to 3, by name and in its order, ViCToR's two more, and the demo's."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from croc_cli.errors import UsageError

if TYPE_CHECKING:
    from croc_cli.benchmarks.base import Benchmark
    from croc_cli.benchmarks.scenes import SceneSettings

NAMES = (
    "vqav2",
    "gqa",
    "vizwiz",
    "scienceqa",
    "textvqa",
    "pope",
    "mme",
    "mmbench",
    "mmbench_cn",
    "seedbench",
    "llava_bench_wild",
    "mmvet",
    "mmstar",
    "docvqa",
    "ai2d",
    "realworldqa",
)
"""Those of the paper, which `all` means."""
OTHERS = ("ocrbench", "mmmu")
"""Those that version 4 of the paper (ViCToR) adds."""
SCENES = "scenes"
EVERY = (*NAMES, *OTHERS, SCENES)


@cache
def benchmarks() -> dict[str, Benchmark]:
    """Return the benchmarks by name."""
    from croc_cli.benchmarks.ai2d import Ai2d
    from croc_cli.benchmarks.docvqa import DocVqa
    from croc_cli.benchmarks.gqa import Gqa
    from croc_cli.benchmarks.judged import LlavaBench, MmVet
    from croc_cli.benchmarks.mmbench import MmBench, MmBenchCn
    from croc_cli.benchmarks.mme import Mme
    from croc_cli.benchmarks.mmmu import Mmmu
    from croc_cli.benchmarks.mmstar import MmStar
    from croc_cli.benchmarks.ocrbench import OcrBench
    from croc_cli.benchmarks.pope import Pope
    from croc_cli.benchmarks.realworldqa import RealWorldQa
    from croc_cli.benchmarks.scenes import Scenes
    from croc_cli.benchmarks.scienceqa import ScienceQa
    from croc_cli.benchmarks.seedbench import SeedBench
    from croc_cli.benchmarks.textvqa import TextVqa
    from croc_cli.benchmarks.vizwiz import VizWiz
    from croc_cli.benchmarks.vqav2 import Vqav2

    every: tuple[Benchmark, ...] = (
        Vqav2(),
        Gqa(),
        VizWiz(),
        ScienceQa(),
        TextVqa(),
        Pope(),
        Mme(),
        MmBench(),
        MmBenchCn(),
        SeedBench(),
        LlavaBench(),
        MmVet(),
        MmStar(),
        DocVqa(),
        Ai2d(),
        RealWorldQa(),
        OcrBench(),
        Mmmu(),
        Scenes(),
    )
    return {benchmark.name: benchmark for benchmark in every}


def choose(
    names: str, variants: Mapping[str, str] | None = None, *, scenes: SceneSettings | None = None
) -> list[Benchmark]:
    """Return the benchmarks that a comma-separated list names, in the paper's order; "all" is every one of the paper.

    Args:
        names: The list.
        variants: Which variant of a benchmark is asked for, by the benchmark's name; the others are primary.
        scenes: How many scenes to ask about, and how long answers may be; default: the usual numbers.

    Raises:
        UsageError: A name is unknown; says the nearest.
    """
    variants = variants or {}
    for name in variants:
        _check_name(name)
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if wanted == ["all"]:
        wanted = list(NAMES)
    for name in wanted:
        _check_name(name)
    if not wanted:
        raise UsageError("no benchmark is named", hint=f"there are {', '.join(EVERY)}, and all")
    every = dict(benchmarks())
    if scenes is not None and SCENES in wanted:
        from croc_cli.benchmarks.scenes import Scenes

        every[SCENES] = Scenes().with_settings(scenes)
    chosen = [every[name] for name in EVERY if name in wanted]
    return [one.in_variant(variants[one.name]) if one.name in variants else one for one in chosen]


def _check_name(name: str) -> None:
    if name not in EVERY:
        near = difflib.get_close_matches(name, EVERY, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(EVERY)}, and all"
        raise UsageError(f"unknown benchmark {name!r}", hint=hint)
