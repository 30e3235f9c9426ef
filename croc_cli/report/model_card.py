"""The model card of a checkpoint, made from what the run wrote down: parts, data and licences, recipe, results."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from croc_cli import __version__
from croc_cli.errors import CrocError
from croc_cli.names import METADATA_FILE, STAGES, StageName
from croc_cli.recipe.load import load_resolved
from croc_cli.recipe.schema import LlavaJsonData, MixData, Recipe, ScenesData
from croc_cli.recipe.stages import group_words
from croc_cli.report.run_data import RunData, read_run
from croc_cli.report.scores import accuracy_rows, benchmark_rows
from croc_cli.run_dir import StageDir, read_json
from croc_cli.sources.mix.recipe_mix import mix_folder
from croc_cli.sources.read.manifest import read_manifest

_ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:[^\s/'\",\\]+/)+(?=[^\s/'\",\\]+)")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def without_local_paths(text: str) -> str:
    """Return a text in which absolute paths keep their last part alone: where a machine keeps its files is no news."""
    return _ABSOLUTE.sub("", text)


def model_card(folder: Path, repository: str, *, licence: str | None) -> str:
    """Return the card of a checkpoint in Markdown, with the hub's front matter.

    Args:
        folder: The checkpoint.
        repository: `owner/name` that it goes to.
        licence: Identifier of its licence, such as `apache-2.0`; None leaves it out and says so.
    """
    about = read_json(folder / METADATA_FILE)
    recipe = _recipe(folder)
    run = _run_of(folder)
    sections = [
        _front_matter(recipe, licence),
        f"# {repository.rpartition('/')[2]}\n",
        _what_it_is(about, recipe, licence),
        _use(repository, about),
        _training(folder, recipe) if recipe else "",
        _data(folder, recipe) if recipe else "",
        _results(run),
        _recipe_text(folder),
    ]
    return without_local_paths("\n".join(section for section in sections if section))


def _front_matter(recipe: Recipe | None, licence: str | None) -> str:
    bases = [recipe.model.llm, recipe.model.vision_tower] if recipe else []
    values: dict[str, object] = {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["llava", "croc"],
    }
    if hub := [name for name in bases if _HUB_ID.fullmatch(name)]:
        values["base_model"] = hub
    if licence:
        values["license"] = licence
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---\n"


def _what_it_is(about: Mapping[str, Any], recipe: Recipe | None, licence: str | None) -> str:
    stage = f"the stage `{about['stage']}`, step {about.get('step')}, of " if about.get("stage") else ""
    lines = [
        f"A stock LLaVA (`LlavaForConditionalGeneration`): {stage}the recipe "
        f"`{recipe.name}`, trained with croc {about.get('croc_version') or __version__}."
        if recipe
        else "A stock LLaVA (`LlavaForConditionalGeneration`), saved by croc.",
    ]
    if recipe:
        reconstruct = "with" if recipe.reconstruct.enabled else "without"
        lines.append(
            f"Vision tower `{recipe.model.vision_tower}`, LLM `{recipe.model.llm}`, {reconstruct} the stage of masked "
            "visual token reconstruction ([arXiv:2410.14332](https://arxiv.org/abs/2410.14332))."
        )
    if about.get("weights_sha256"):
        lines.append(f"SHA-256 of the weights: `{about['weights_sha256']}`.")
    if not licence:
        lines.append("No licence was stated for these weights; those of tower, LLM and data (below) apply to them too.")
    return "\n".join(lines) + "\n"


def _use(repository: str, about: Mapping[str, Any]) -> str:
    if about.get("visual_norm") == "l2":
        return (
            "**Its visual tokens are L2-normalised, which transformers and vLLM leave out: their answers are wrong.** "
            f"Use `croc chat --model {repository} image.jpg`.\n"
        )
    return (
        f"## Use\n\n```\ncroc chat --model {repository} image.jpg\n```\n\n"
        "```python\nfrom transformers import AutoModelForImageTextToText, AutoProcessor\n\n"
        f'processor = AutoProcessor.from_pretrained("{repository}")\n'
        f'model = AutoModelForImageTextToText.from_pretrained("{repository}")\n```\n'
    )


def _training(folder: Path, recipe: Recipe) -> str:
    """Return which parts each stage trained; all others were frozen in it."""
    rows = [["stage", "trains"]]
    for stage, of_stage in _lineage(folder, recipe):
        rates = of_stage.stage(stage).learning_rate.trained()
        pool_stage = of_stage.pool_stage(stage)
        if pool_stage is not None and pool_stage.mask.largest_ratio == 0:
            rates.pop("token_pool", None)  # nothing is masked, so there is no pool
        rows.append([stage, group_words(rates)])
    return f"## Training\n\n{_table(rows)}"


def _data(folder: Path, recipe: Recipe) -> str:
    rows = [["stage", "data", "samples", "licence"]]
    for stage, of_stage in _lineage(folder, recipe):
        source = of_stage.data.source(stage)
        if isinstance(source, ScenesData):
            rows.append(
                [stage, f"drawn scenes, {source.task.replace('_', ' ')}", f"{source.num_samples:,}", "none needed"]
            )
        elif isinstance(source, LlavaJsonData):
            number = f"{source.num_samples:,}" if source.num_samples else "all"
            rows.append([stage, Path(source.path).name, number, "not stated"])
        elif isinstance(source, MixData):
            rows += _mix_rows(of_stage, stage)
    return f"## Data\n\n{_table(rows)}"


def _lineage(folder: Path, recipe: Recipe) -> list[tuple[StageName, Recipe]]:
    """Return the stages that led to a checkpoint, the first first, each with the recipe that it was trained by.

    Where a start is no longer here, the stages before it are those that the recipe at hand enables.
    """
    led: list[tuple[StageName, Recipe]] = []
    about = read_json(folder / METADATA_FILE)
    stage = about.get("stage")
    before = STAGES[: STAGES.index(stage) + 1] if stage in STAGES else STAGES
    while stage in STAGES and len(led) < len(STAGES):
        led.insert(0, (stage, recipe))
        before = STAGES[: STAGES.index(stage)]
        start = about.get("start")
        path = Path(str(start.get("path"))) if isinstance(start, dict) else None
        if path is None or path.name == "init":  # assembled from tower and LLM
            return led
        here = (path, folder.resolve().parents[2] / path.parent.parent.name / "checkpoints" / path.name)
        found = next((place for place in here if (place / METADATA_FILE).is_file()), None)
        if found is None:
            break
        folder, recipe, about = found, _recipe(found) or recipe, read_json(found / METADATA_FILE)
        stage = about.get("stage")
        if stage is None:  # a model of others
            return led
    return [(name, recipe) for name in before if recipe.stage(name).enabled] + led


def _mix_rows(recipe: Recipe, stage: StageName) -> list[list[str]]:
    try:
        manifest = read_manifest(mix_folder(recipe, stage))
    except (CrocError, OSError):
        return [[stage, "a mix whose manifest is not here", "", "not stated"]]
    return [
        [stage, source.catalog or source.name, f"{source.rows_out:,}", source.licence or "not stated"]
        for source in manifest.sources
    ]


def _results(run: RunData | None) -> str:
    if run is None:
        return ""
    parts = [_table(rows) if rows else "" for rows in (_text(benchmark_rows([run])), _text(accuracy_rows([run])))]
    found = "\n".join(part for part in parts if part)
    return f"## Results\n\n{found}" if found else "## Results\n\nNot evaluated.\n"


def _recipe_text(folder: Path) -> str:
    file = StageDir(folder).recipe_file
    if not file.is_file():
        return ""
    return f"## Recipe\n\n```yaml\n{file.read_text(encoding='utf-8').strip()}\n```\n"


def _recipe(folder: Path) -> Recipe | None:
    file = StageDir(folder).recipe_file
    try:
        return load_resolved(file) if file.is_file() else None
    except CrocError:  # written by another version; its text is shown all the same
        return None


def _run_of(folder: Path) -> RunData | None:
    """Return the run that a checkpoint lies in, with its scores, or None."""
    parents = folder.resolve().parents
    if len(parents) < 3 or parents[0].name != "checkpoints":
        return None
    try:
        return read_run(parents[2])
    except CrocError:
        return None


def _text(rows: Iterable[Sequence[object]]) -> list[list[str]]:
    return [[str(cell) for cell in row] for row in rows]


def _table(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"
