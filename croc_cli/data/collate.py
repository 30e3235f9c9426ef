"""Puts encoded samples and their images together as micro-batches, and loads those of whole optimizer steps.

A loader yields whole steps, so that a loss can be a mean over the tokens of a step.

Letters: B rows · T tokens of a row · S samples · I images · n visual tokens of an image.
"""

import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.utils.data
from PIL import Image

from croc_cli.data.conversation import ConversationEncoder, EncodedConversation, SampleError
from croc_cli.data.dataset import DataError, Dataset
from croc_cli.data.features import FeatureCache
from croc_cli.data.image import BadImageError, open_image, process_images
from croc_cli.data.masking import Masking
from croc_cli.data.micro_batch import MicroBatch
from croc_cli.data.packing import RowLimit, deal_rows, describe_packing, pack_rows, round_up
from croc_cli.data.places import find_places
from croc_cli.data.sample import ImageRef, Sample
from croc_cli.data.sampler import StepSampler
from croc_cli.names import IGNORE_INDEX

__all__ = ["Collator", "MicroBatch", "StepLoader", "build_data_loader"]


@dataclass
class _ImagePlace:
    """An image of a micro-batch: which one of which sample; `trains` is False where its sample trains nothing."""

    sample: int
    index: int
    sample_id: str
    ref: ImageRef
    trains: bool = True


@dataclass(frozen=True)
class _Rows:
    """How samples lie in rows.

    Args:
        sizes: Samples of each row.
        length: T.
        packed: Whether rows may hold other numbers of samples than one.
    """

    sizes: Sequence[int]
    length: int
    packed: bool


class Collator:
    """Encodes the samples of a micro-batch and makes its tensors.

    A sample keeps its place whatever happens to it: where an image does not open a blank takes its place, and where
    nothing to train is left of a sample it is counted as dropped; in both cases its labels are all IGNORE_INDEX and its
    images are not real.

    Args:
        encoder: Turns conversations into ids and labels.
        image_processor: Stock processor of the vision tower's images.
        masking: Which visual tokens of an image are masked; None where nothing is.
        num_visual_tokens: n.
        pad_token_id: Id that fills up rows; any id will do, since it is neither attended nor trained.
        seed: Seed of the masks.
        length_multiple: Tokens that T is rounded up to a multiple of, within the encoder's maximum.

    `features` may be set to a cache; micro-batches then hold what the frozen tower made of images, not their pixels.
    """

    def __init__(
        self,
        encoder: ConversationEncoder,
        image_processor: Any,
        *,
        masking: Masking | None,
        num_visual_tokens: int,
        pad_token_id: int | None,
        seed: int,
        length_multiple: int = 1,
    ) -> None:
        self.encoder = encoder
        self.length_multiple = length_multiple
        self.image_processor = image_processor
        self.num_visual_tokens = num_visual_tokens
        self.masking = masking
        self.pad_token_id = pad_token_id if pad_token_id is not None else 0
        self.seed = seed
        self.features: FeatureCache | None = None
        self.blank = torch.zeros_like(process_images([Image.new("RGB", (8, 8))], image_processor)[0])

    def __call__(self, samples: Sequence[Sample], *, step: int) -> MicroBatch:
        """Return the micro-batch of some samples, a row each; with none of them, one row that trains nothing.

        Args:
            samples: The samples.
            step: The optimizer step, which the masks depend on.

        Raises:
            DataError: A sample's turns do not fit the template; says which sample.
        """
        encoded = [self.encode(sample) for sample in samples]
        longest = max([1, *(len(one.input_ids) for one in encoded)])
        length = max(longest, min(round_up(longest, self.length_multiple), self.encoder.max_length))
        sizes = [1] * len(samples) or [0]
        return self._micro_batch(samples, encoded, _Rows(sizes, length, packed=False), step=step)

    def pack(
        self,
        samples: Sequence[Sample],
        encoded: Sequence[EncodedConversation],
        *,
        rows: Sequence[Sequence[int]],
        row_tokens: int,
        step: int,
    ) -> MicroBatch:
        """Return the micro-batch of samples that share rows, which are as long as the fullest of them needs.

        Args:
            samples: The samples, and perhaps more.
            encoded: What `encode` made of them.
            rows: For each row the places of its samples among them.
            row_tokens: T at most.
            step: The optimizer step, which the masks depend on.
        """
        taken = [place for row in rows for place in row]
        longest = max([1, *(sum(len(encoded[place].input_ids) for place in row) for row in rows)])
        length = max(longest, min(round_up(longest, self.length_multiple), row_tokens))
        layout = _Rows([len(row) for row in rows], length, packed=True)
        return self._micro_batch([samples[i] for i in taken], [encoded[i] for i in taken], layout, step=step)

    def _micro_batch(
        self, samples: Sequence[Sample], encoded: Sequence[EncodedConversation], rows: _Rows, *, step: int
    ) -> MicroBatch:
        trains = [any(label != IGNORE_INDEX for label in one.labels[1:]) for one in encoded]
        num_dropped = len(trains) - sum(trains)
        places = [
            _ImagePlace(number, index, sample.id, sample.images[index], trains[number])
            for number, sample in enumerate(samples)
            for index in range(encoded[number].num_images)
        ]
        pixel_values, bad_images = self._pixels(places)
        for number in {place.sample for place in places if not place.trains}:
            trains[number] = False
        input_ids, labels, attention_mask, numbers = self._rows(encoded, trains, rows)
        row_of = [row for row, size in enumerate(rows.sizes) for _ in range(size)]
        image_rows = torch.tensor([row_of[place.sample] for place in places] or [-1])
        lengths = [len(one.input_ids) for one in encoded]
        return MicroBatch(
            input_ids=input_ids,
            labels=labels,
            attention_mask=attention_mask,
            pixel_values=pixel_values,
            image_is_real=torch.tensor([trains[place.sample] for place in places] or [False]),
            image_rows=image_rows,
            masked=self._masked(places, step),
            sample_ids=[sample.id for sample in samples],
            sources=[sample.source for sample in samples],
            num_images=[len(sample.images) for sample in samples],
            num_samples=len(samples),
            num_truncated=sum(one.truncated for one in encoded),
            num_dropped=num_dropped,
            bad_images=bad_images,
            places=find_places(
                input_ids,
                labels,
                image_rows,
                image_token_id=self.encoder.image_token_id,
                num_visual_tokens=self.num_visual_tokens,
                samples=numbers,
            ),
            packing=describe_packing(lengths, sizes=rows.sizes, length=rows.length) if rows.packed else None,
        )

    def encode(self, sample: Sample) -> EncodedConversation:
        """Return a sample's conversation as tokens.

        Raises:
            DataError: Its turns do not fit the template; says which sample.
        """
        try:
            return self.encoder.encode(sample.turns, num_images=len(sample.images))
        except SampleError as error:
            raise DataError(f"sample {sample.id}: {error}") from error

    def _rows(
        self, encoded: Sequence[EncodedConversation], trains: Sequence[bool], rows: _Rows
    ) -> tuple[torch.Tensor, ...]:
        """Return input_ids, labels, attention_mask and the sample of each token, each [B, T]."""
        shape = (len(rows.sizes), rows.length)
        input_ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        labels = np.full(shape, IGNORE_INDEX, dtype=np.int64)
        attention_mask = np.zeros(shape, dtype=np.int64)
        samples = np.zeros(shape, dtype=np.int64)
        if not rows.packed:
            attention_mask[:, 0] = 1  # a row that attends nothing at all gives NaN in some attention kernels
        row_start = 0
        for row, size in enumerate(rows.sizes):
            end = 0
            for number in range(row_start, row_start + size):
                start, end = end, end + len(encoded[number].input_ids)
                input_ids[row, start:end] = encoded[number].input_ids
                attention_mask[row, start:end] = 1
                samples[row, start:end] = number
                if trains[number]:
                    labels[row, start + 1 : end] = encoded[number].labels[1:]  # nothing predicts a first token
            row_start += size
        return tuple(torch.from_numpy(array) for array in (input_ids, labels, attention_mask, samples))

    def _pixels(self, places: Sequence[_ImagePlace]) -> tuple[torch.Tensor, list[tuple[str, str, str]]]:
        """Return [I, 3, H, W] and the images that did not open, and note in `places` whose samples they are.

        With a feature cache it is the images' features [I, n, D_v] instead.
        """
        if self.features is not None:
            return self._kept_features(places, self.features)
        opened: list[tuple[int, Image.Image]] = []
        bad_images: list[tuple[str, str, str]] = []
        for position, place in enumerate(places):
            try:
                opened.append((position, open_image(place.ref)))
            except BadImageError as error:
                bad_images.append((place.sample_id, error.name, error.reason))
                place.trains = False
        if len(opened) == len(places) and opened:
            return process_images([image for _, image in opened], self.image_processor), bad_images
        pixel_values = self.blank.repeat(max(len(places), 1), 1, 1, 1)
        if opened:
            positions = [position for position, _ in opened]
            pixel_values[positions] = process_images([image for _, image in opened], self.image_processor)
        return pixel_values, bad_images

    def _kept_features(
        self, places: Sequence[_ImagePlace], cache: FeatureCache
    ) -> tuple[torch.Tensor, list[tuple[str, str, str]]]:
        """Return [I, n, D_v] from the cache, those of the blank where an image does not open."""
        blank = cache.read(None)
        if blank is None:
            raise DataError(f"{cache.folder} lacks the features of a blank picture", hint="start the stage again")
        bad_images: list[tuple[str, str, str]] = []
        features = []
        for place in places:
            own = cache.read(place.ref)
            if own is None:
                try:
                    open_image(place.ref)
                except BadImageError as error:
                    bad_images.append((place.sample_id, error.name, error.reason))
                    place.trains = False
                else:
                    raise DataError(
                        f"image {place.ref.name} of sample {place.sample_id} was changed after its features were kept",
                        hint="start the stage again; what is missing is computed then",
                    )
            features.append(blank if own is None else own)
        return torch.stack(features or [blank]), bad_images

    def _masked(self, places: Sequence[_ImagePlace], step: int) -> torch.Tensor | None:
        """Return [I, n] bool, where the visual tokens of each image are masked; blanks have masks too."""
        if self.masking is None:
            return None
        draws = [
            self.masking.draw(self.num_visual_tokens, seed=self.seed, step=step, sample_id=sample_id, image_index=index)
            for sample_id, index in [(place.sample_id, place.index) for place in places] or [("", 0)]
        ]
        return torch.from_numpy(np.stack(draws))


class StepLoader(torch.utils.data.Dataset[list[MicroBatch]]):
    """This rank's micro-batches by optimizer step, counted from 0.

    Args:
        dataset: The samples.
        encoder: Turns conversations into ids and labels.
        image_processor: Stock processor of the vision tower's images.
        sampler: Says which samples a step takes.
        masking: Which visual tokens of an image are masked; None where nothing is.
        num_visual_tokens: n.
        pad_token_id: Id that fills up rows.
        seed: Seed of the masks.
        length_multiple: Tokens that lengths of micro-batches are rounded up to a multiple of.
        packing: How long rows are into which samples are packed; the sampler's micro-batches then count rows. None
            gives each sample a row of its own.
    """

    def __init__(
        self,
        dataset: Dataset,
        encoder: ConversationEncoder,
        image_processor: Any,
        sampler: StepSampler,
        *,
        masking: Masking | None,
        num_visual_tokens: int,
        pad_token_id: int | None,
        seed: int,
        length_multiple: int = 1,
        packing: RowLimit | None = None,
    ) -> None:
        self.dataset = dataset
        self.encoder = encoder
        self.sampler = sampler
        self.packing = packing
        self.collator = Collator(
            encoder,
            image_processor,
            masking=masking,
            num_visual_tokens=num_visual_tokens,
            pad_token_id=pad_token_id,
            seed=seed,
            length_multiple=length_multiple,
        )

    def __len__(self) -> int:
        return self.sampler.num_steps

    def __getitem__(self, step: int) -> list[MicroBatch]:
        if self.packing is not None:
            return self._packed(step, self.packing)
        return [
            self.collator([self.dataset[index] for index in indices if index is not None], step=step)
            for indices in self.sampler.micro_batches(step, self.dataset.length_hint)
        ]

    def _packed(self, step: int, limit: RowLimit) -> list[MicroBatch]:
        """Return this rank's micro-batches of rows; every rank encodes all samples of the step to find the same rows.

        Raises:
            DataError: A sample is longer than a row; says which.
        """
        sampler, collator = self.sampler, self.collator
        samples = [self.dataset[index] for index in sampler.global_batch(step)]
        encoded = [collator.encode(sample) for sample in samples]
        lengths = limit.lengths([sample.id for sample in samples], encoded)
        rows = pack_rows(lengths, row_tokens=limit.tokens, multiple=sampler.num_ranks)
        dealt = deal_rows(rows, rank=sampler.rank, num_ranks=sampler.num_ranks, micro_size=sampler.micro_size)
        return [collator.pack(samples, encoded, rows=own, row_tokens=limit.tokens, step=step) for own in dealt]


def build_data_loader(
    step_loader: StepLoader, *, start_step: int = 0, num_workers: int = 0, pin_memory: bool = False
) -> Iterable[list[MicroBatch]]:
    """Return an iterable over the remaining steps, in order, loaded ahead by worker processes where there are any.

    Args:
        step_loader: The steps.
        start_step: The first step to load.
        num_workers: Processes; 0 loads in this one.
        pin_memory: Put tensors into memory that a GPU copies from while the host goes on.
    """
    loader: torch.utils.data.DataLoader[list[MicroBatch]] = torch.utils.data.DataLoader(
        step_loader,
        batch_size=None,
        sampler=range(start_step, len(step_loader)),
        num_workers=num_workers,
        worker_init_fn=start_worker if num_workers else None,
        prefetch_factor=2 if num_workers else None,
        pin_memory=pin_memory,
    )
    return loader


def start_worker(_worker: int) -> None:
    """Make a worker process use one thread, and leave Ctrl-C and its like to the process that trains."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
