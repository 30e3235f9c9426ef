"""Answering in batches: each answer as if it were asked alone, each picture read once."""

import pytest
import torch
from PIL import Image

from croc_cli.checkpoint.load import LoadedModel, load_for_inference
from croc_cli.data.image import LazyImage
from croc_cli.data.sample import ImageRef
from croc_cli.eval.runner import Question, answer_batch, answer_questions, make_batches, prepare_pictures
from croc_cli.worker.build import num_visual_tokens
from tests.tiny import make_tiny_llava


class Coloured:
    """A picture of one colour."""

    def __init__(self, shade: int) -> None:
        self.name = f"shade {shade}"
        self.shade = shade

    def open(self) -> Image.Image:
        return Image.new("RGB", (20, 14), (self.shade, 80, 255 - self.shade))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    make_tiny_llava(folder)
    return load_for_inference(folder)


def question(model: LoadedModel, name: str, words: list[int], *images: ImageRef | None) -> Question:
    config = model.llava.config
    visual = [config.image_token_id] * num_visual_tokens(config) * len(images)
    return Question(name, [1, 5, *visual, 6, *words], images)


def questions(model: LoadedModel) -> list[Question]:
    about = [
        question(model, f"{shade} {number}", [7 + shade % 5, 8 + number] + [9] * number, Coloured(shade))
        for number in range(5)
        for shade in (10, 200)
    ]
    return [*about, question(model, "blank", [7], None), question(model, "text", [7, 8])]


def alone(model: LoadedModel, one: Question) -> str:
    pictures = prepare_pictures(model.processor, one.images)
    return answer_batch(model.llava, model.processor, [one], pictures, max_new_tokens=6)[0]


@pytest.mark.parametrize("batch_size", [2, 5, 64])
def test_an_answer_is_the_one_given_alone_whatever_shares_its_picture(model: LoadedModel, batch_size: int) -> None:
    asked = questions(model)
    together = dict(answer_questions(model.llava, model.processor, asked, batch_size=batch_size, max_new_tokens=6))
    assert together == {one.id: alone(model, one) for one in asked}
    assert len(set(together.values())) > 3


def test_a_picture_and_the_words_before_it_are_read_once_for_all_its_questions(model: LoadedModel) -> None:
    asked = [one for one in questions(model) if one.images and one.images[0] is not None]
    pictures = prepare_pictures(model.processor, [one.images[0] for one in asked])
    assert pictures is not None
    assert len(pictures.pixels) == 2
    seen: list[torch.Size] = []
    hook = model.llava.model.language_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["inputs_embeds"].shape[:2]), with_kwargs=True
    )
    answer_batch(model.llava, model.processor, asked, pictures, max_new_tokens=1)
    hook.remove()
    opening = 2 + num_visual_tokens(model.llava.config)
    longest = max(len(one.prompt_ids) for one in asked)
    assert seen == [torch.Size([2, opening]), torch.Size([10, longest - opening])]


def test_questions_about_a_picture_stand_beside_each_other(model: LoadedModel) -> None:
    asked = [one for one in questions(model) if one.images and one.images[0] is not None]
    first, second = make_batches(asked, 5)
    assert {one.images[0].name for one in first if one.images[0]} == {"shade 10"}
    assert {one.images[0].name for one in second if one.images[0]} == {"shade 200"}


def test_a_lazy_image_is_fetched_when_it_is_opened() -> None:
    fetched: list[str] = []

    def read() -> bytes:
        fetched.append("now")
        return b"no picture"

    image = LazyImage("cell 3", read)
    assert not fetched
    with pytest.raises((OSError, ValueError)):
        image.open()
    assert fetched == ["now"]
