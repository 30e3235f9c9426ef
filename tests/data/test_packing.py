"""Rows that samples are packed into: full, the same for every rank, nothing cut."""

import random
from typing import Any

import pytest
import torch

from croc_cli.data.dataset import DataError
from croc_cli.data.masking import Masking
from croc_cli.data.micro_batch import MicroBatch
from croc_cli.data.packing import RowLimit, deal_rows, describe_packing, first_fit, pack_rows, round_up
from croc_cli.names import IGNORE_INDEX
from croc_cli.worker.preflight import filling
from tests.data.test_collate import IMAGE_ID, NUM_VISUAL, Colour, loader, sample

SAMPLES = [
    sample("two", Colour(10), Colour(200), answer="a long answer of many words"),
    sample("text", question="why?"),
    sample("one", Colour(90)),
    sample("other", Colour(30), question="what is to be seen here?"),
    sample("short", question="a", answer="b"),
]


def llava_like_lengths(count: int, seed: int) -> list[int]:
    """Return lengths such as LLaVA's mixes have: 576 visual tokens and a long tail of text; a tenth is text alone."""
    draw = random.Random(seed)
    texts = [min(2048 - 576, 40 + int(draw.lognormvariate(5.0, 0.7))) for _ in range(count)]
    return [text + (0 if draw.random() < 0.1 else 576) for text in texts]


def packed(
    *, rank: int = 0, num_ranks: int = 1, tokens: int = 130, micro_size: int = 1, **changes: Any
) -> list[MicroBatch]:
    found = loader(SAMPLES, rank=rank, num_ranks=num_ranks, micro_size=micro_size, packed=True, **changes)
    found.packing = RowLimit(tokens, "finetune.batch.row_tokens")
    return found[0]


def test_samples_go_the_longest_first_into_the_first_row_with_room() -> None:
    assert first_fit([3, 7, 5, 2], 10) == [[1, 0], [2, 3]]
    assert pack_rows([3, 7, 5, 2], row_tokens=10, multiple=1) == [[1, 3], [0, 2]]  # two rows can do with 9 tokens


def test_every_rank_gets_as_many_rows_and_every_sample_one_place() -> None:
    lengths = llava_like_lengths(50, seed=1)
    rows = pack_rows(lengths, row_tokens=4096, multiple=3)
    shares = [deal_rows(rows, rank=rank, num_ranks=3, micro_size=2) for rank in range(3)]
    assert len(rows) == 12
    assert [[len(micro_batch) for micro_batch in share] for share in shares] == [[2, 2]] * 3
    odd = deal_rows(rows, rank=0, num_ranks=4, micro_size=2)
    assert [len(micro_batch) for micro_batch in odd] == [2, 1]
    dealt = [place for share in shares for micro_batch in share for row in micro_batch for place in row]
    assert sorted(dealt) == list(range(50))
    assert max(sum(lengths[place] for place in row) for row in rows) <= 4096


@pytest.mark.parametrize("samples", [0, 1, 2])
def test_fewer_samples_than_rows_leave_rows_empty(samples: int) -> None:
    rows = pack_rows([5] * samples, row_tokens=8, multiple=4)
    assert rows == [[number] for number in range(samples)] + [[]] * (4 - samples)


@pytest.mark.parametrize(("num_ranks", "row_tokens"), [(1, 8192), (8, 8192), (1, 4096), (8, 4096)])
def test_padding_of_a_realistic_mix_is_below_two_percent(num_ranks: int, row_tokens: int) -> None:
    tokens = places = 0
    for step in range(8):
        lengths = llava_like_lengths(128, seed=step)
        rows = pack_rows(lengths, row_tokens=row_tokens, multiple=num_ranks)
        tokens += sum(lengths)
        places += sum(round_up(sum(lengths[place] for place in row), 128) for row in rows)
    assert 1 - tokens / places <= 0.02


def test_positions_begin_anew_and_padding_is_one_more_sample() -> None:
    packing = describe_packing([2, 3, 4], sizes=[2, 1, 0], length=6)
    assert packing.position_ids.tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 4, 5]]
    assert packing.boundaries.tolist() == [0, 2, 5, 6, 10, 12, 18]
    assert packing.boundaries.dtype == torch.int32
    assert packing.longest == 6


def test_a_packed_row_holds_the_tokens_masks_and_pictures_of_its_samples_one_by_one() -> None:
    [batch] = packed(tokens=999)
    assert len(batch.input_ids) == 1
    assert sorted(batch.sample_ids) == sorted(one.id for one in SAMPLES)
    assert batch.packing is not None
    bounds = batch.packing.boundaries.tolist()
    image = 0
    for number, name in enumerate(batch.sample_ids):
        [alone] = loader([one for one in SAMPLES if one.id == name])[0]
        span = slice(*bounds[number : number + 2])
        assert torch.equal(batch.input_ids[0, span], alone.input_ids[0])
        assert torch.equal(batch.labels[0, span], alone.labels[0])
        shown = int((alone.image_rows >= 0).sum())
        assert batch.num_images[number] == shown
        assert torch.equal(batch.pixel_values[image : image + shown], alone.pixel_values[:shown])
        assert batch.masked is not None
        assert alone.masked is not None
        assert torch.equal(batch.masked[image : image + shown], alone.masked[:shown])
        assert batch.trained_tokens_by_sample()[number] == alone.num_trained_tokens
        image += shown
    assert (batch.input_ids[0][batch.places.visual] == IMAGE_ID).all()
    assert len(batch.places.visual) == 4 * NUM_VISUAL
    assert batch.num_trained_tokens == sum(batch.trained_tokens_by_sample()) == len(batch.places.labels)


def test_masks_of_different_sizes_lie_in_packed_rows_as_they_do_in_rows_of_their_own() -> None:
    masking = Masking(0.5, range=(0.0, 1.0), shape="block")
    alone = [batch.masked for batch in loader(SAMPLES, micro_size=1, masking=masking)[0] if batch.image_is_real.any()]
    together = torch.cat([batch.masked for batch in packed(tokens=999, masking=masking)])
    by_image = torch.cat([masks for masks in alone if masks is not None])
    assert sorted(together[:4].tolist()) == sorted(by_image.tolist())
    assert len(set(together.sum(dim=1).tolist())) > 1


def test_no_token_predicts_the_first_one_of_the_next_sample() -> None:
    [batch] = packed(tokens=999, template="plain", num_masked=None)
    assert batch.packing is not None
    starts = batch.packing.boundaries[:-1].long()
    assert (batch.labels[0, starts] == IGNORE_INDEX).all()
    assert batch.num_trained_tokens > 0


def test_ranks_share_a_step_whose_samples_are_those_of_the_unpacked_run() -> None:
    ranks = [packed(rank=rank, num_ranks=2, tokens=130) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) > 0
    names = [name for batches in ranks for batch in batches for name in batch.sample_ids]
    assert sorted(names) == sorted(one.id for one in SAMPLES)
    tokens = sum(int(batch.attention_mask.sum()) for batches in ranks for batch in batches)
    assert tokens == sum(int(batch.attention_mask.sum()) for batch in loader(SAMPLES)[0])


def test_a_sample_longer_than_a_row_is_named_with_its_length() -> None:
    with pytest.raises(
        DataError, match=r"sample two has (\d+) tokens, more than a row of finetune.batch.row_tokens = 50"
    ) as caught:
        packed(tokens=50)
    assert "--set finetune.batch.row_tokens=" in str(caught.value.hint)


def test_a_rehearsal_takes_as_many_of_the_longest_samples_as_one_micro_batch_of_each_rank_holds() -> None:
    found = loader(SAMPLES, micro_size=1, packed=True)
    order = sorted(range(len(SAMPLES)), key=lambda index: -len(found.collator.encode(SAMPLES[index]).input_ids))
    lengths = [len(found.collator.encode(SAMPLES[index]).input_ids) for index in order]
    assert filling(order, found, row_tokens=sum(lengths[:2])) == order[:2]
    assert filling(order, found, row_tokens=1) == order[:1]  # whose length is then an error of its own
    assert filling(order, found, row_tokens=999) == order
