"""The page of `croc report attention`: where answers look, averaged over pictures (the paper's Fig. 8)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from croc_cli.names import STAGES
from croc_cli.report.charts import Line, line_chart
from croc_cli.report.labels import distinct_names
from croc_cli.report.metrics_reader import Curve
from croc_cli.report.page import Page, PageSection, PageTable, write_page
from croc_cli.report.svg import WIDE, Figure, new_axes, to_svg
from croc_cli.run_dir import read_json, step_of

_SHARES = ("visual", "instruction", "before", "answer")
_NAMES = {"before": "before the picture", "answer": "the answer so far"}


def write_attention_page(folder: Path) -> Path:
    """Write the page of a folder's attention.json into it, and return the page's file."""
    content = read_json(folder / "attention.json")
    models = [model for model in content.get("models", []) if isinstance(model, dict)]
    names = short_names([str(model["model"]) for model in models])
    top = max((max(map(max, model["visual"])) for model in models), default=1.0)
    sections = [
        PageSection(
            name if len(models) > 1 else "Where the answer looks",
            figures=_figures(model, index, top=top),
            tables=[_answers(model, index)],
        )
        for index, (model, name) in enumerate(zip(models, names, strict=True))
    ]
    if len(models) > 1:
        sections.insert(0, PageSection("Share of the attention", tables=[_shares_table(models, names)]))
    counts = {model["num_pictures"] for model in models}
    bad = [f"left out: {one}" for model in models[:1] for one in model.get("bad_pictures", [])]
    page = Page(
        title="Where answers look: " + " · ".join(names),
        lead=f"Attention of answer tokens, mean over layers, heads and {max(counts, default=0)} pictures."
        f" Question: {content.get('question')}",
        tiles=_tiles(models[0]) if len(models) == 1 else [],
        warnings=bad,
        sections=sections,
        made_from=[str(model["model"]) for model in models],
    )
    return write_page(page, folder)


def short_names(models: Sequence[str]) -> list[str]:
    """Return names that tell models apart; of the same model twice, with numbers.

    A checkpoint of croc is named by its run, stage and step; its folder's own name is a step alone.
    """
    short = distinct_names(models) or [f"{number}: {model}" for number, model in enumerate(models, start=1)]
    readable = [_checkpoint_name(model) or name for model, name in zip(models, short, strict=True)]
    return readable if len(set(readable)) == len(readable) else short


def _checkpoint_name(model: str) -> str | None:
    """Return `nano finetune, step 230` for a checkpoint of a run, None for any other model."""
    parts, step = Path(model).parts, step_of(Path(model))
    if step is None or len(parts) < 4 or parts[-2] != "checkpoints" or parts[-3] not in STAGES:
        return None
    return f"{parts[-4]} {parts[-3]}, step {step:,}"


def mean_shares(model: Mapping[str, Any]) -> dict[str, float]:
    """Return what part of the attention goes to each kind of token, mean over answer tokens."""
    rows = model["shares"]
    return {kind: sum(row[kind] for row in rows) / len(rows) for kind in _SHARES}


def _tiles(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    shares = mean_shares(model)
    return [(f"{100 * shares[kind]:.1f} %", _NAMES.get(kind, f"{kind} tokens")) for kind in _SHARES]


def _shares_table(models: Sequence[Mapping[str, Any]], names: Sequence[str]) -> PageTable:
    rows = [["model", *(_NAMES.get(kind, f"{kind} tokens") for kind in _SHARES)]]
    for model, name in zip(models, names, strict=True):
        rows.append([name, *(f"{100 * share:.1f} %" for share in mean_shares(model).values())])
    return PageTable("attention-shares", "mean over answer tokens", rows)


def _answers(model: Mapping[str, Any], index: int) -> PageTable:
    rows = [["picture", "answer"], *([Path(one["image"]).name, one["answer"]] for one in model.get("examples", []))]
    return PageTable(f"answers-{index}", "the first answers", rows, words_last=True)


def _figures(model: Mapping[str, Any], index: int, *, top: float) -> list[Figure]:
    figures = [heatmap(model, f"attention-{index}", top=top)]
    rows = model["shares"]
    steps = [float(place) for place in range(1, len(rows) + 1)]
    lines = []
    for number, kind in enumerate(_SHARES):
        values = [row[kind] for row in rows]
        lines.append(Line(_NAMES.get(kind, kind), Curve(steps, values, values, values), number))
    chart = line_chart(
        f"attention-shares-{index}",
        "what the answer looks at",
        lines,
        unit="share of the attention",
        percent=True,
        along="token of the answer",
    )
    figures += [chart] if chart else []
    side = round(len(model["visual"][0]) ** 0.5)
    if side * side == len(model["visual"][0]):
        figures.append(_grid(model, f"attention-places-{index}", side))
    return figures


def heatmap(model: Mapping[str, Any], name: str, *, top: float) -> Figure:
    """Return the paper's Fig. 8: rows are answer tokens, columns visual tokens and then instruction tokens.

    Args:
        model: One model of attention.json.
        name: Of the files.
        top: Weight that is drawn brightest, the same for all models of a page.
    """
    visual, words = model["visual"], model["instruction_weights"]
    figure, axes = new_axes(width=WIDE, height=4.2, columns=2)
    axes[0].get_gridspec().set_width_ratios([3, 1])
    titles = (f"{len(visual[0])} visual tokens", f"{len(words[0])} instruction tokens")
    for axis, weights, title in zip(axes, (visual, words), titles, strict=True):
        # The root lets weak weights be seen; one scale for both halves, so that brightness compares.
        shown = [[min(value / top, 1.0) ** 0.5 for value in row] for row in weights]
        drawn = axis.imshow(shown, cmap="magma", vmin=0, vmax=1, aspect="auto", interpolation="none")
        axis.set_title(title)
        axis.grid(visible=False)
        axis.set_xlabel("token that is looked at")
    axes[0].set_ylabel("token of the answer")
    bar = figure.colorbar(drawn, ax=axes, ticks=[0.0, 0.25**0.5, 1.0], pad=0.01, aspect=30, label="attention weight")
    bar.ax.set_yticklabels([f"{share * top:.3g}" for share in (0.0, 0.25, 1.0)])
    data: list[list[Any]] = [["answer token", "pictures", *(f"visual {i}" for i in range(len(visual[0])))]]
    data[0] += [f"instruction {i}: {word}" for i, word in enumerate(model["instruction"])]
    for row, count in enumerate(model["counts"]):
        data.append([row + 1, count, *visual[row], *words[row]])
    title = "attention of answer tokens (Fig. 8)"
    note = "Brighter: more attention; the root of the weight, on one scale for all."
    return Figure(name, title, to_svg(figure, name=name, description=title), data, note, wide=True)


def _grid(model: Mapping[str, Any], name: str, side: int) -> Figure:
    """Return where in the picture answers look, mean over answer tokens."""
    rows = model["visual"]
    means = [sum(row[place] for row in rows) / len(rows) for place in range(side * side)]
    grid = [means[start : start + side] for start in range(0, side * side, side)]
    figure, axes = new_axes(height=3.4)
    drawn = axes.imshow(grid, cmap="magma", vmin=0, interpolation="none")
    figure.colorbar(drawn, ax=axes, label="mean attention weight", shrink=0.8)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    title = "where in the picture"
    return Figure(name, title, to_svg(figure, name=name, description=title), grid, "Mean over answer tokens.")
