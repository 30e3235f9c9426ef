import io
from pathlib import Path
from typing import Any

from PIL import Image

from croc_cli.report.model_figures import explained_panel, mask_figure, model_section, shown_tokens
from croc_cli.run_dir import write_json

ATTENTION = {"kind": "mixed", "tokens": "ivva", "rows": ["1110", "1110", "1110", "1111"], "sample": "x"}


def png(colour: str = "red", size: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(stream, "PNG")
    return stream.getvalue()


def write_figures(run: Path, **changes: Any) -> Path:
    """Write what the worker leaves of one picture."""
    folder = run / "figures"
    folder.mkdir(parents=True)
    names = {name: f"{name}-0.png" for name in ("picture", "masked", "pool", "reconstructed")}
    for file in names.values():
        (folder / file).write_bytes(png())
    entry = {
        "files": names,
        "masked": [0, 3],
        "explained": [0.5, -1.0],
        "request": "What?",
        "written": "a star",
        "truth": "a cross",
    }
    pictures = [entry | changes]
    write_json(folder / "figures.json", {"side": 2, "held_out": True, "pictures": pictures, "attention": ATTENTION})
    return run


def test_a_picture_stands_with_its_panels_and_words(tmp_path: Path) -> None:
    section = model_section(write_figures(tmp_path / "run"))
    [strip] = section.strips
    assert [panel.label for panel in strip.panels] == [
        *("the picture", "masked patches", "pool tokens in their place", "what the LLM put back", "explained share")
    ]
    assert dict(strip.words)["written"] == "a star"
    assert dict(strip.words)["explained"] == "-0.25 over 2 of 4 tokens"
    assert "held out from training" in section.text


def test_without_reconstruction_there_is_no_explained_share(tmp_path: Path) -> None:
    [strip] = model_section(write_figures(tmp_path / "run", explained=None)).strips
    assert len(strip.panels) == 4
    assert "explained" not in dict(strip.words)


def test_a_run_without_figures_or_with_a_torn_file_has_an_empty_section(tmp_path: Path) -> None:
    assert model_section(tmp_path).empty
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "figures.json").write_text('{"pictures": [')
    assert model_section(tmp_path).empty
    write_json(tmp_path / "figures" / "figures.json", {"pictures": [3, {"files": {"picture": "../../gone.png"}}]})
    assert model_section(tmp_path).empty


def test_masked_patches_are_coloured_by_how_well_they_came_back() -> None:
    image = Image.open(io.BytesIO(explained_panel(png("white"), 2, [0, 3], [1.0, -5.0])))
    good, visible, bad = (image.getpixel(place) for place in ((1, 1), (5, 1), (5, 5)))
    assert visible == (255, 255, 255)
    assert good[0] > 200 > bad[0]  # type: ignore[index]


def test_the_mask_is_drawn_with_its_data_beside_it() -> None:
    figure = mask_figure(ATTENTION)
    assert figure is not None
    assert figure.svg.count("<image") == 2
    assert list(figure.rows)[1] == [0, "instruction", "1110"]
    assert mask_figure({"tokens": "ab", "rows": ["10"]}) is None


def test_of_many_visual_tokens_only_some_are_drawn() -> None:
    kept, every = shown_tokens("i" * 20 + "v" * 576 + "a" * 30)
    assert every == 6
    assert len(kept) == 20 + 96 + 30
    assert shown_tokens("ivva") == ([0, 1, 2, 3], 0)
