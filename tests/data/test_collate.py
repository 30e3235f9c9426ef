import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from croc_cli.data.collate import MicroBatch, StepLoader, build_data_loader
from croc_cli.data.conversation import ConversationEncoder
from croc_cli.data.dataset import DataError
from croc_cli.data.image import PathImage, build_image_processor, open_image, process_images
from croc_cli.data.masking import Masking, draw_masked_positions
from croc_cli.data.sample import ImageRef, Sample, Turn
from croc_cli.data.sampler import StepSampler
from croc_cli.names import IGNORE_INDEX
from tests.data.tiny_tokenizers import byte_level_tokenizer, random_turns

PROCESSOR = build_image_processor({"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}, "pad")
TOKENIZER = byte_level_tokenizer()
IMAGE_ID = TOKENIZER.convert_tokens_to_ids("<image>")
NUM_VISUAL = 4


@dataclass(frozen=True)
class Colour:
    value: int
    name: str = "colour"

    def open(self) -> Image.Image:
        return Image.new("RGB", (8, 6), (self.value, 0, 0))


class Samples(list[Sample]):
    def length_hint(self, index: int) -> int:
        return len(self[index].turns[0].text)


def sample(name: str, *images: ImageRef, question: str = "what?", answer: str = "red.") -> Sample:
    return Sample(name, (Turn("human", "<image>" * len(images) + question), Turn("gpt", answer)), images)


def loader(
    samples: list[Sample], *, micro_size: int | None = None, max_length: int = 999, **changes: Any
) -> StepLoader:
    settings = {"template": "vicuna_v1", "num_masked": 3, "num_ranks": 1, "rank": 0, **changes}
    few = settings["num_masked"]
    encoder = ConversationEncoder(
        TOKENIZER,
        template=settings["template"],
        image_token_id=IMAGE_ID,
        num_visual_tokens=NUM_VISUAL,
        max_length=max_length,
    )
    sampler = StepSampler(
        len(samples),
        global_size=settings.get("global_size", len(samples)),
        micro_size=micro_size or len(samples),
        rank=settings["rank"],
        num_ranks=settings["num_ranks"],
        seed=0,
        packed=settings.get("packed", False),
    )
    return StepLoader(
        Samples(samples),
        encoder,
        PROCESSOR,
        sampler,
        masking=settings.get("masking", None if few is None else Masking(few / NUM_VISUAL)),
        num_visual_tokens=NUM_VISUAL,
        pad_token_id=0,
        seed=5,
        length_multiple=settings.get("length_multiple", 1),
    )


def only(samples: list[Sample], **changes: Any) -> MicroBatch:
    [micro_batch] = loader(samples, **changes)[0]
    return micro_batch


def row_of(batch: MicroBatch, name: str) -> int:
    return batch.sample_ids.index(name)


def test_rows_are_filled_up_on_the_right() -> None:
    batch = only([sample("long", Colour(9), question="what is it?"), sample("short", question="a")])
    assert (batch.input_ids.dtype, batch.labels.dtype, batch.attention_mask.dtype) == (torch.int64,) * 3
    short = row_of(batch, "short")
    length = int(batch.attention_mask[short].sum())
    assert length < batch.input_ids.shape[1]
    assert batch.attention_mask[short, :length].all()
    assert (batch.labels[short, length:] == IGNORE_INDEX).all()
    assert (batch.input_ids[short, length:] == 0).all()
    assert int(batch.attention_mask[1 - short].sum()) == batch.input_ids.shape[1]
    assert batch.num_trained_tokens == int((batch.labels != IGNORE_INDEX).sum()) > 0


def test_every_visual_and_trained_token_has_its_place() -> None:
    batch = only([sample("two", Colour(10), Colour(200)), sample("none"), sample("one", Colour(90))])
    assert batch.places is not None
    ids = batch.input_ids.flatten()
    assert (ids[batch.places.visual] == IMAGE_ID).all()
    assert len(batch.places.visual) == 3 * NUM_VISUAL
    assert torch.equal(ids[batch.places.before_labels + 1], batch.places.labels)
    assert len(batch.places.labels) == batch.num_trained_tokens


def test_lengths_are_rounded_up_within_the_maximum_and_what_is_added_is_padding() -> None:
    samples = [sample("one", Colour(9)), sample("two", question="a longer question")]
    plain, rounded = only(samples), only(samples, length_multiple=64)
    length = plain.input_ids.shape[1]
    assert rounded.input_ids.shape == (2, -(-length // 64) * 64)
    assert torch.equal(rounded.input_ids[:, :length], plain.input_ids)
    assert not rounded.attention_mask[:, length:].any()
    assert (rounded.labels[:, length:] == IGNORE_INDEX).all()
    assert only(samples, length_multiple=64, max_length=length + 1).input_ids.shape[1] == length + 1


def test_images_belong_to_their_rows_in_order() -> None:
    batch = only([sample("two", Colour(10), Colour(200)), sample("none"), sample("one", Colour(90))])
    expected = {"two": [10, 200], "none": [], "one": [90]}
    assert batch.pixel_values.shape == (3, 3, 8, 8)
    assert batch.pixel_values.dtype == torch.float32
    assert batch.image_is_real.tolist() == [True] * 3
    for name, values in expected.items():
        row = row_of(batch, name)
        assert (batch.input_ids[row] == IMAGE_ID).sum() == NUM_VISUAL * len(values)
        shown = batch.pixel_values[batch.image_rows == row]
        pixels = [process_images([open_image(Colour(value))], PROCESSOR)[0] for value in values]
        assert all(torch.equal(one, other) for one, other in zip(shown, pixels, strict=True))
    assert batch.image_rows.tolist() == sorted(batch.image_rows.tolist())


def test_masks_are_drawn_by_step_and_sample() -> None:
    batch = only([sample("b", Colour(1), Colour(2)), sample("a", Colour(3))])
    assert batch.masked is not None
    for position, (name, index) in enumerate(
        sorted([("b", 0), ("b", 1), ("a", 0)], key=lambda image: row_of(batch, image[0]))
    ):
        expected = draw_masked_positions(NUM_VISUAL, 3, seed=5, step=0, sample_id=name, image_index=index)
        assert batch.masked[position].tolist() == expected.tolist()
    assert only([sample("a", Colour(3))], num_masked=None).masked is None


def test_text_alone_gets_one_blank_that_no_row_shows() -> None:
    batch = only([sample("a"), sample("b")])
    assert batch.image_rows.tolist() == [-1]
    assert batch.image_is_real.tolist() == [False]
    assert not batch.pixel_values.any()
    assert batch.masked is not None
    assert batch.masked.sum() == 3


def test_an_image_that_does_not_open_leaves_a_blank_and_trains_nothing(tmp_path: Path) -> None:
    bad = PathImage(tmp_path / "none.jpg")
    batch = only([sample("bad", Colour(5), bad), sample("good", Colour(7))])
    row = row_of(batch, "bad")
    assert batch.bad_images == [("bad", str(bad.path), "no such file")]
    assert (batch.labels[row] == IGNORE_INDEX).all()
    assert (batch.labels[1 - row] != IGNORE_INDEX).any()
    assert batch.image_is_real.tolist() == [name == row_of(batch, "good") for name in batch.image_rows.tolist()]
    assert not batch.pixel_values[batch.image_rows == row][1].any()
    assert (batch.num_samples, batch.num_dropped) == (2, 0)


def test_a_sample_with_nothing_left_to_train_is_dropped_and_counted() -> None:
    batch = only([sample("a", Colour(5), answer=" "), sample("b")])
    assert (batch.num_samples, batch.num_dropped, batch.num_truncated) == (2, 1, 0)
    assert (batch.labels[row_of(batch, "a")] == IGNORE_INDEX).all()
    assert batch.image_is_real.tolist() == [False]
    cut = only([sample("a", Colour(5))], max_length=20)
    assert (cut.num_dropped, cut.num_truncated, cut.num_trained_tokens) == (1, 1, 0)
    assert cut.pixel_values.shape[0] == 1


def test_images_whose_tokens_were_cut_are_not_opened(tmp_path: Path) -> None:
    batch = only([sample("a", Colour(5), PathImage(tmp_path / "none"))], max_length=7, template="plain")
    assert (batch.pixel_values.shape[0], batch.bad_images) == (1, [])


def test_a_sample_that_does_not_fit_the_template_is_named() -> None:
    turns = (Turn("human", "a"), Turn("gpt", "b"), Turn("human", "c"), Turn("gpt", "d"))
    with pytest.raises(DataError, match="sample odd: template plain takes one human and one gpt turn"):
        only([Sample("odd", turns)], template="plain")


def test_the_places_that_fill_up_the_last_step_hold_no_samples() -> None:
    steps = loader([sample(str(number)) for number in range(3)], global_size=2, micro_size=1)
    full, last = steps[0], steps[1]
    assert [batch.num_samples for batch in full] == [1, 1]
    assert [batch.num_samples for batch in last] == [1, 0]
    assert last[1].input_ids.shape == (1, 1)
    assert last[1].attention_mask.tolist() == [[1]]
    assert last[1].num_trained_tokens == 0


def many() -> list[Sample]:
    generator = random.Random(4)
    return [
        Sample(str(number), random_turns(generator, num_images=number % 3), tuple(Colour(i) for i in range(number % 3)))
        for number in range(21)
    ]


def same(one: MicroBatch, other: MicroBatch) -> bool:
    tensors = ("input_ids", "labels", "attention_mask", "pixel_values", "image_is_real", "image_rows", "masked")
    return one.sample_ids == other.sample_ids and all(torch.equal(getattr(one, t), getattr(other, t)) for t in tensors)


def test_worker_processes_give_the_same_steps_in_the_same_order() -> None:
    steps = loader(many(), global_size=4, micro_size=2)
    straight = [steps[step] for step in range(2, len(steps))]
    for num_workers in (0, 2):
        loaded = list(build_data_loader(steps, start_step=2, num_workers=num_workers))
        assert len(loaded) == len(straight) == 4
        for batches, others in zip(loaded, straight, strict=True):
            assert all(same(one, other) for one, other in zip(batches, others, strict=True))


def test_ranks_share_out_the_samples_of_a_step() -> None:
    alone = loader(many(), global_size=4, micro_size=1)
    pair = [loader(many(), global_size=4, micro_size=1, num_ranks=2, rank=rank) for rank in (0, 1)]
    for step in range(len(alone)):
        ids = sorted(name for batch in alone[step] for name in batch.sample_ids)
        assert ids == sorted(name for rank in pair for batch in rank[step] for name in batch.sample_ids)


def test_a_micro_batch_moves_to_a_device_whole() -> None:
    batch = only([sample("a", Colour(5))]).to("meta")
    assert batch.input_ids.device.type == batch.pixel_values.device.type == "meta"
    assert batch.masked is not None
    assert batch.masked.device.type == "meta"
    assert batch.sample_ids == ["a"]
    assert batch.places is not None
    assert {index.device.type for index in batch.places} == {"meta"}


def test_loading_data_imports_no_deepspeed() -> None:
    code = "import sys, croc_cli.data.collate; sys.exit('deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
