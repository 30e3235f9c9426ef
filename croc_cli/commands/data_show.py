"""`croc data show`."""

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from croc_cli.commands import complete
from croc_cli.commands.data_stats import ImageFolderOption, check_stage
from croc_cli.commands.options import MOST
from croc_cli.files import own_path
from croc_cli.names import DEFAULT_RECIPE, IGNORE_INDEX
from croc_cli.words import counted, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from croc_cli.data.conversation import ConversationEncoder
    from croc_cli.recipe.schema import Recipe
    from croc_cli.sources.verify.checked_rows import CheckedRow

EPILOG = "Example: croc data show data/mixes/croc1.5m --row 7"
FALLBACK_LLM = "builtin:nano"
TRAINED, CONTEXT, VISUAL = "trained", "context", "visual"
_ANSI = {TRAINED: "\033[32m", CONTEXT: "\033[2m", VISUAL: "\033[36m"}
_MARKS = {TRAINED: ("[[", "]]"), CONTEXT: ("", ""), VISUAL: ("<", ">")}
_PICTURE_COLUMNS = 64

Piece = tuple[str, str]
"""(kind, text) of neighbouring tokens of one kind."""


def show(
    target: Annotated[
        str, typer.Argument(metavar="PATH|RECIPE", help="A mix's folder, a data file or folder, or a recipe's data")
    ],
    row: Annotated[
        int, typer.Option("--row", min=0, max=MOST, metavar="N", help="Row number, from 0; in a mix, in training order")
    ] = 0,
    image_folder: ImageFolderOption = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="RECIPE",
            autocompletion=complete.recipes,
            help=f"Recipe whose tokenizer to use; default: the mix's own, or {DEFAULT_RECIPE}",
        ),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option("--stage", metavar="STAGE", help="Stage of the recipe; default: the mix's own, or finetune"),
    ] = None,
    page: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write an HTML page instead")] = None,
) -> None:
    """Show one sample: its picture, and its text token by token: trained, context or visual."""
    from croc_cli.console import result
    from croc_cli.place import check_place, put_text
    from croc_cli.report.sample_page import sample_page
    from croc_cli.sources.read.rows import is_error, row_defects

    if page is not None:
        check_place(page)
    path, image_folder, settings, stage = _what_to_show(target, recipe, stage, image_folder)
    checked = find_row(path, row, image_folder)
    title = f"{path}, row {row}: {checked.key}"
    defects = [checked.defect] if checked.defect is not None else row_defects(checked.row)
    wrong = [f"{'error' if is_error(code) else 'note'}: {code}: {detail}" for code, detail in defects]
    pieces: list[Piece] = []
    told = []
    counts: dict[str, int] = {}
    if not any(is_error(code) for code, _ in defects):
        pieces, counts, about = token_pieces(checked.row, settings(), stage)
        told.append(about)
    pictures = {name: _open(place) for name, place in checked.images()}
    lines = [f"image {name}: {_described(picture)}" for name, picture in pictures.items()]
    opened = {name: picture for name, picture in pictures.items() if not isinstance(picture, str)}
    if page is not None:
        lost = [line for line, picture in zip(lines, pictures.values(), strict=True) if isinstance(picture, str)]
        kinds = pieces or [(CONTEXT, str(checked.row))]
        lead = ". ".join([*told, *(line for line in lines if line not in lost)])
        put_text(page, sample_page(title, lead, counts=counts, warnings=[*wrong, *lost], pictures=opened, pieces=kinds))
        result(str(page))
        return
    in_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    parts = [shown("\n".join([title, *wrong, *told, *lines]))]
    if in_colour:
        parts += [blocks(picture) for picture in opened.values()]
    parts.append(_written(pieces, in_colour=in_colour) if pieces else shown(str(checked.row)))
    parts.append(_legend(in_colour) if pieces else "")
    result("\n\n".join(part for part in parts if part), is_styled=True)


def _what_to_show(
    target: str, recipe: str | None, stage: str | None, image_folder: Path | None
) -> "tuple[Path, Path | None, Callable[[], Recipe], str]":
    """Return the data, its image folder, what gives the recipe whose tokens are shown, and the stage.

    Raises:
        UsageError: There is no such data, recipe or stage.
    """
    from croc_cli.console import with_warnings
    from croc_cli.recipe.load import load_recipe
    from croc_cli.sources.mix.recipe_mix import recipe_of_mix

    check_stage(stage or "finetune")
    path = own_path(target)
    if not path.exists() or path.suffix in (".yaml", ".yml"):
        from croc_cli.commands.data_verify import recipe_data

        loaded, path, found_folder, stage = recipe_data(target, stage)
        folder = image_folder or found_folder
        return path, folder, lambda: loaded if recipe is None else with_warnings(load_recipe(recipe)).recipe, stage
    own = recipe_of_mix(path) if recipe is None else None
    if own is not None:
        return path, image_folder, lambda: own[0], stage or own[1] or "finetune"
    name = recipe or DEFAULT_RECIPE
    return path, image_folder, lambda: with_warnings(load_recipe(name)).recipe, stage or "finetune"


def find_row(path: Path, number: int, image_folder: Path | None) -> "CheckedRow":
    """Return a row: of a mix by its place in the mix's order, of anything else by its place in the file.

    Raises:
        UsageError: There is no such row.
    """
    from croc_cli.errors import UsageError
    from croc_cli.sources.read.json_rows import parse_row
    from croc_cli.sources.verify.checked_rows import CheckedData, CheckedRow

    data = CheckedData(path, image_folder)
    if data.mix is not None and number < len(data.mix):
        mix = data.mix
        root = os.path.abspath(mix.image_roots[int(mix.index.source[number])])
        try:
            return CheckedRow(number, mix.key(number), parse_row(mix.read(number)), root)
        except ValueError as error:
            return CheckedRow(number, mix.key(number), None, root, ("json-broken", str(error)))
    seen = 0
    if data.mix is None:
        for found in data.rows():
            if found.number == number:
                return found
            seen = found.number + 1
    rows = len(data.mix) if data.mix is not None else seen
    raise UsageError(f"{path} has no row {number}", hint=f"it has {counted(rows, 'row')}, counted from 0")


def token_pieces(row: dict[str, Any], recipe: "Recipe", stage: str) -> tuple[list[Piece], dict[str, int], str]:
    """Return a row's tokens in pieces of one kind, how many there are of each, and that in a line."""
    from croc_cli.console import say
    from croc_cli.data.conversation import SampleError
    from croc_cli.pipeline.tokens import count_images, row_turns, stage_encoder

    encoder = stage_encoder(recipe, stage)
    if encoder is None:
        say(f"note: the tokenizer of {recipe.model.llm} is not on this machine; these are the tokens of {FALLBACK_LLM}")
        small = recipe.model.model_copy(update={"llm": FALLBACK_LLM, "llm_revision": None})
        encoder = stage_encoder(recipe.model_copy(update={"model": small}), stage)
        assert encoder is not None, "the nano tokenizer ships with croc"
    try:
        encoded = encoder.encode(row_turns(row), num_images=count_images(row))
    except SampleError as error:
        return [], {}, f"{stage} cannot train on it: {error}"
    pieces: list[tuple[str, list[int]]] = []
    for token_id, label in zip(encoded.input_ids, encoded.labels, strict=True):
        kind = VISUAL if token_id == encoder.image_token_id else CONTEXT if label == IGNORE_INDEX else TRAINED
        if not pieces or pieces[-1][0] != kind:
            pieces.append((kind, []))
        pieces[-1][1].append(token_id)
    numbers = {kind: sum(len(ids) for name, ids in pieces if name == kind) for kind in (TRAINED, CONTEXT, VISUAL)}
    counts = ", ".join(f"{number:,} {kind}" for kind, number in numbers.items())
    cut = f", cut to {encoder.max_length:,}" if encoded.truncated else ""
    told = f"{len(encoded.input_ids):,} tokens as {stage} sees them ({recipe.stage(stage).template}): {counts}{cut}"
    return [(kind, _decoded(encoder, kind, ids)) for kind, ids in pieces], numbers, told


def _decoded(encoder: "ConversationEncoder", kind: str, ids: list[int]) -> str:
    return f"{len(ids)} visual tokens" if kind == VISUAL else encoder.decode(ids)


def _open(place: Any) -> Any:
    """Return a picture as RGB, or why it cannot be opened."""
    import io

    from croc_cli.data.image import BadImageError, BytesImage, open_image

    try:
        return open_image(BytesImage(place.name, io.BytesIO(place.read()).getvalue()))
    except (BadImageError, OSError) as error:
        return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)


def _described(picture: Any) -> str:
    return picture if isinstance(picture, str) else f"{picture.width} × {picture.height} pixels"


def blocks(picture: Any, columns: int = _PICTURE_COLUMNS) -> str:
    """Return a picture as half blocks in true colour, two pixels above each other in each letter."""
    columns = min(columns, shutil.get_terminal_size().columns)
    rows = max(1, round(picture.height / picture.width * columns / 2))
    small = picture.resize((columns, 2 * rows))
    lines = []
    for row in range(rows):
        cells = []
        for column in range(columns):
            above, below = small.getpixel((column, 2 * row)), small.getpixel((column, 2 * row + 1))
            front, back = (";".join(map(str, colour)) for colour in (above, below))
            cells.append(f"\033[38;2;{front}m\033[48;2;{back}m▀")
        lines.append("".join(cells) + "\033[0m")
    return "\n".join(lines)


def _written(pieces: list[Piece], *, in_colour: bool) -> str:
    if in_colour:
        return "".join(f"{_ANSI[kind]}{shown(text)}\033[0m" for kind, text in pieces)
    return "".join(_MARKS[kind][0] + shown(text) + _MARKS[kind][1] for kind, text in pieces)


def _legend(in_colour: bool) -> str:
    return _written([(kind, kind) for kind in (TRAINED, CONTEXT, VISUAL)], in_colour=in_colour).replace(
        "]]context<", "]] context <"
    )
