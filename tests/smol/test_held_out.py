"""Held-out scoring tells a model that looks at its picture from one that does not."""

from pathlib import Path

import torch
from PIL import Image

from croc_cli.checkpoint.load import load_for_inference
from croc_cli.data.image import PathImage
from croc_cli.data.sample import Sample, Turn
from tests.smol.held_out import one_a_family, score
from tests.tiny import make_tiny_llava


def make_samples(folder: Path) -> list[Sample]:
    samples = []
    for name, colour in (("red", (230, 10, 10)), ("blue", (10, 10, 230))):
        Image.new("RGB", (56, 56), colour).save(folder / f"{name}.png")
        turns = (Turn("human", "<image>\nWhat is this?"), Turn("gpt", name))
        samples.append(Sample(f"{name}-name", turns, (PathImage(folder / f"{name}.png"),)))
    return samples


def test_own_and_other_picture_are_scored_apart_and_answers_come_as_they_are(tmp_path: Path) -> None:
    model = load_for_inference(make_tiny_llava(tmp_path / "m"))
    found = score(model, make_samples(tmp_path))
    assert found.num_questions == 2
    assert found.right != found.swapped
    assert [answer[:2] for answer in found.answers] == [("red-name", "red"), ("blue-name", "blue")]


def test_a_blind_model_has_the_same_loss_with_any_picture(tmp_path: Path) -> None:
    model = load_for_inference(make_tiny_llava(tmp_path / "m"))
    torch.nn.init.zeros_(model.llava.model.multi_modal_projector.linear_2.weight)
    found = score(model, make_samples(tmp_path))
    assert found.right == found.swapped
    assert found.better == 0.0


def test_questions_are_spread_over_families_and_no_family_is_asked_twice() -> None:
    keys = ["1f3c3", "1f3c3-1f3fb", "1f400", "1f401", "1f402", "1f403"]
    samples = [Sample(f"{key}-name#{number}", (Turn("human", "?"),), ()) for number, key in enumerate(keys)]
    assert [sample.id for sample in one_a_family(samples, count=9)] == [
        *("1f3c3-name#0", "1f400-name#2", "1f401-name#3", "1f402-name#4", "1f403-name#5")
    ]
    assert [sample.id for sample in one_a_family(samples, count=2)] == ["1f3c3-name#0", "1f401-name#3"]
