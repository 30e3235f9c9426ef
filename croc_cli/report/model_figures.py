"""The figures that a worker computed with the model, as the page shows them: masked pictures, attention mask."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from croc_cli.report.charts import legend_below
from croc_cli.report.page import ColourScale, PageSection, Panel, Strip
from croc_cli.report.svg import MARKERS, WIDE, Figure, new_axes, to_svg
from croc_cli.run_dir import read_json

FOLDER = "figures"
"""The folder of a run in which the worker leaves them."""
MAX_TOKENS = 150
"""Tokens of a sequence that a drawn mask shows; of a longer one, fewer visual tokens are shown."""
_KINDS = {"v": "visual", "i": "instruction", "a": "response"}
_COLOURS = {"v": (0.20, 0.55, 0.85), "i": (0.85, 0.50, 0.25), "a": (0.25, 0.65, 0.45)}
_PANELS = {
    "picture": "the picture",
    "masked": "masked patches",
    "pool": "pool tokens in their place",
    "reconstructed": "what the LLM put back",
}

EXPLAINED = "explained share"
_VIRIDIS = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")
"""matplotlib's colour map of that name, at equal distances."""
EXPLAINED_SCALE = ColourScale("explained share 0 or less", "1", _VIRIDIS)


def model_section(run_root: Path) -> PageSection:
    """Return the section of a run's model figures, empty where there are none."""
    folder = run_root / FOLDER
    content = read_json(folder / "figures.json")
    strips = []
    for index, entry in enumerate(_list(content.get("pictures"))):
        if isinstance(entry, Mapping) and (strip := _strip(folder, index, entry, content)) is not None:
            strips.append(strip)
    attention = content.get("attention")
    figure = mask_figure(attention) if isinstance(attention, Mapping) else None
    where = "held out from training" if content.get("held_out") else "of the training data"
    text = (
        f"Pictures {where}. A token, of the pool or put back by the LLM, is shown as the patch of other pictures whose"
        " own visual token lies nearest to it. Explained share: 1 − distance / distance of the mean token, position by"
        " position; 1 is perfect, 0 as good as the mean."
    )
    return PageSection("Inside stage 1.5", text if strips else "", strips=strips, figures=[figure] if figure else [])


def _strip(folder: Path, index: int, entry: Mapping[str, Any], content: Mapping[str, Any]) -> Strip | None:
    files = entry.get("files")
    panels = []
    for name, label in _PANELS.items():
        file = folder / Path(str(files.get(name, ""))).name if isinstance(files, Mapping) else folder
        if file.suffix == ".png" and file.is_file():
            panels.append(Panel(label, file.read_bytes()))
    if not panels:
        return None
    explained = [float(value) for value in _list(entry.get("explained")) if isinstance(value, float | int)]
    masked = [int(place) for place in _list(entry.get("masked")) if isinstance(place, int)]
    words = [(label, str(entry.get(key) or "–")) for label, key in (("asked", "request"), ("written", "written"))]
    words.append(("in the data", str(entry.get("truth") or "–")))
    if explained and len(explained) == len(masked):
        side = int(content.get("side") or 1)
        panels.append(Panel(EXPLAINED, explained_panel(panels[0].content, side, masked, explained)))
        mean = sum(explained) / len(explained)
        words.append(("explained", f"{mean:.2f} over {len(masked)} of {side * side} tokens"))
    scale = EXPLAINED_SCALE if len(panels) > 1 and panels[-1].label == EXPLAINED else None
    return Strip(f"masked-picture-{index}", panels, words, scale)


def explained_panel(picture: bytes, side: int, masked: Sequence[int], explained: Sequence[float]) -> bytes:
    """Return the picture in grey, its masked patches coloured by how well they came back; dark = 0 or less, light = 1.

    Args:
        picture: A PNG, a square.
        side: Patches along a side.
        masked: Positions, row by row.
        explained: Explained share of each.
    """
    from matplotlib import colormaps
    from PIL import Image

    image = Image.open(io.BytesIO(picture)).convert("L").convert("RGB")
    step = image.width / side
    colours = colormaps["viridis"]
    for place, share in zip(masked, explained, strict=True):
        row, column = divmod(place, side)
        box = (round(column * step), round(row * step), round((column + 1) * step), round((row + 1) * step))
        red, green, blue, _ = colours(min(max(share, 0.0), 1.0))
        colour = Image.new("RGB", (box[2] - box[0], box[3] - box[1]), tuple(round(255 * c) for c in (red, green, blue)))
        image.paste(Image.blend(image.crop(box), colour, 0.85), box)
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def mask_figure(attention: Mapping[str, Any]) -> Figure | None:
    """Return the attention mask of a real sample beside the causal one of LLaVA (the paper's Fig. 3).

    Args:
        attention: `tokens`, a letter for each of T tokens (v visual, i instruction, a response); `rows`, T strings of
            0 and 1, row = query; `kind` of the attention; `sample`.
    """
    tokens, rows = str(attention.get("tokens", "")), [str(row) for row in _list(attention.get("rows"))]
    if not tokens or len(rows) != len(tokens) or any(len(row) != len(tokens) for row in rows):
        return None
    kept, thinned = shown_tokens(tokens)
    figure, axes = new_axes(width=WIDE, height=5.2, columns=2)
    names = ("causal, as in LLaVA", f"{attention.get('kind')}, as this stage trains")
    causal = ["1" * (place + 1) + "0" * (len(tokens) - place - 1) for place in range(len(tokens))]
    for axis, name, mask in zip(axes, names, (causal, rows), strict=True):
        pixels = [[_pixel(tokens[key], mask[query][key] == "1") for key in kept] for query in kept]
        axis.imshow(pixels, interpolation="none")
        axis.set_title(name)
        axis.grid(visible=False)
        _mark_kinds(axis, [tokens[place] for place in kept])
    title = "who may attend to whom (Fig. 3)"
    from matplotlib.patches import Patch

    used = [kind for kind in _KINDS if kind in tokens]
    patches = [Patch(color=_COLOURS[kind]) for kind in used]
    legend_below(figure, patches, [f"{_KINDS[kind]} tokens" for kind in used], columns=len(used))
    note = "Row: the token that looks. Column: what it looks at. Coloured: may attend."
    if thinned:
        note += f" Of {tokens.count('v'):,} visual tokens every {thinned}th is drawn."
    data: list[list[Any]] = [["token", "kind", "attends to"]]
    data += [[place, _KINDS.get(kind, kind), rows[place]] for place, kind in enumerate(tokens)]
    svg = to_svg(figure, name="attention-mask", description=title)
    return Figure("attention-mask", title, svg, data, note, wide=True)


def shown_tokens(tokens: str) -> tuple[list[int], int]:
    """Return the positions that a drawn mask shows, and that only every k-th visual token is shown (0: all are)."""
    visual = tokens.count("v")
    room = max(8, MAX_TOKENS - (len(tokens) - visual))
    every = -(-visual // room) if visual else 1
    seen = 0
    kept = []
    for place, kind in enumerate(tokens):
        if kind == "v":
            seen += 1
            if (seen - 1) % every:
                continue
        kept.append(place)
    return kept, every if every > 1 else 0


def _pixel(kind: str, attends: bool) -> tuple[float, float, float, float]:
    return (*_COLOURS.get(kind, (0.5, 0.5, 0.5)), 0.95) if attends else (0.5, 0.5, 0.5, 0.10)


def _mark_kinds(axis: Any, kinds: Sequence[str]) -> None:
    """Name runs of tokens of the same kind on both axes."""
    places, labels, start = [], [], 0
    for place in range(1, len(kinds) + 1):
        if place == len(kinds) or kinds[place] != kinds[start]:
            if place - start >= len(kinds) / 12:
                places.append((start + place - 1) / 2)
                labels.append(_KINDS.get(kinds[start], kinds[start]))
            for line in (axis.axhline, axis.axvline):
                line(place - 0.5, color=MARKERS["muted"], linewidth=0.6)
            start = place
    axis.set_xticks(places, labels)
    axis.set_yticks(places, labels, rotation=90, va="center")
    axis.tick_params(length=0)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
