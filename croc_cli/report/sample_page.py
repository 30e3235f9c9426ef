"""One sample as a page: its pictures, and its text token by token."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from croc_cli.report.page import Page, PageSection, Panel, Strip, render

if TYPE_CHECKING:
    from PIL.Image import Image

_LEGEND = (("trained", "trained"), ("context", " context "), ("visual", "visual"))


def sample_page(
    title: str,
    lead: str,
    *,
    counts: Mapping[str, int],
    warnings: Sequence[str],
    pictures: Mapping[str, "Image"],
    pieces: Sequence[tuple[str, str]],
) -> str:
    """Return the page as HTML that needs nothing else.

    Args:
        title: Which row.
        lead: The sentence under it.
        counts: Tokens of each kind.
        warnings: What is wrong with the row.
        pictures: Those that open, by name.
        pieces: (kind, text) of neighbouring tokens of one kind.
    """
    panels = [Panel(name, _png(picture)) for name, picture in pictures.items()]
    sections = [
        PageSection("Pictures", strips=[Strip("pictures", panels, large=True)] if panels else []),
        PageSection("Text", pieces=[*_LEGEND, ("context", "\n\n"), *pieces]),
    ]
    tiles = [(f"{number:,}", f"{kind} tokens") for kind, number in counts.items()]
    page = Page(title, lead, tiles, list(warnings), is_alone=True)
    return render(page, [section for section in sections if not section.empty])


def _png(picture: "Image") -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
