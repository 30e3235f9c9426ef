"""What a preflight adds to a stage on one rank: the longest samples, what would fail hours later, and an answer.

It is launched twice. The first time the stage takes three steps on its longest samples and saves after the first; the
second time, in fresh processes, it resumes from there, and what was saved answers a question.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from croc_cli.checkpoint.load import load_for_inference
from croc_cli.data.collate import StepLoader
from croc_cli.data.dataset import Dataset
from croc_cli.data.packing import first_fit
from croc_cli.demo.dataset import SceneDataset
from croc_cli.errors import CrocError, RunError, first_line
from croc_cli.eval.prompts import evaluation_encoder
from croc_cli.eval.runner import Question, answer_questions
from croc_cli.launch.less_memory import less_memory
from croc_cli.names import IGNORE_INDEX, StageName
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import StageDir, read_json, write_json
from croc_cli.train.collectives import barrier, gather_from_ranks, rank
from croc_cli.train.handed import Saver
from croc_cli.train.metrics import peak_memory_bytes
from croc_cli.train.position import POSITION
from croc_cli.train.state import TrainerState
from croc_cli.words import counted
from croc_cli.worker.build import StageParts

ANSWER_TOKENS = 16
_DRAWN = 500
"""Drawn samples that are looked at: each has to be made before its length is known."""
_LOOKED_FOR_IMAGES = 5000
_LOOKED_AT = 16
"""Samples whose end tokens are looked at."""
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")


class Preflight:
    """The checks of one rank around a stage's few steps.

    Args:
        recipe: The recipe of the preflight.
        stage: The stage.
        stage_dir: Its folder; `preflight.json` says how far it got, for a parent whose ranks are killed.
        parts: The stage's parts, whose loader is given the longest samples.
        device: Where the rank computes.
    """

    def __init__(
        self, recipe: Recipe, stage: StageName, stage_dir: StageDir, parts: StageParts, *, device: str
    ) -> None:
        self.section = recipe.stage(stage)
        self.stage = stage
        self.stage_dir = stage_dir
        self.parts = parts
        with POSITION.working("finding the longest samples", "found the longest samples", opaque=True):
            self.longest = longest_samples(parts.loader.dataset, self.section.batch.global_size)
            if self.section.row_tokens is not None:
                self.longest = filling(self.longest, parts.loader, row_tokens=self.section.row_tokens)
        self.device = device

    def begin(self) -> None:
        """Check what can be checked of the data, and give the loader the longest samples.

        Raises:
            RunError: The template ends no answer, or nothing of the samples is trained.
        """
        loader = self.parts.loader
        loader.sampler = loader.sampler.dealing(self.longest)
        self._note(longest=self._describe(self.longest[0]), micro_size=self.section.batch.micro_size)
        self._check_ends(end_tokens_saved(self.parts.module.model.llava.generation_config))
        self._check_trained_tokens()

    def _check_ends(self, ends: list[int]) -> None:
        check_end_tokens(self.parts, ends, template=self.section.template)

    @contextmanager
    def around(self, module: nn.Module) -> Iterator[None]:
        """Name the longest sample where memory runs out, and compare which modules the ranks ran."""
        calls = ModuleCalls(module)
        handle = module.register_forward_hook(lambda *_: calls.check())  # before gradients of other modules are reduced
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not any(words in str(error).lower() for words in _NO_MEMORY) and not isinstance(error, MemoryError):
                raise
            raise RunError(
                f"memory runs out on the longest samples: {self._micro_batch()} of up to "
                f"{self._describe(self.longest[0])} ({first_line(error)[:120]})",
                hint=f"{less_memory(self.stage, self.section.model_dump())} takes less; `croc plan` shows how much",
            ) from error
        finally:
            handle.remove()

    def check_saved(self, checkpoint: Path) -> None:
        """Check the end tokens of a checkpoint that was saved."""
        self._check_ends(end_tokens_saved(GenerationConfig.from_pretrained(checkpoint)))

    def finish(self, *, checkpoint: Path, answers: bool) -> None:
        """Note what memory it took; with `answers`, have a checkpoint answer a question on rank 0."""
        peak = max(gather_from_ranks(peak_memory_bytes()))
        answer = None
        if answers and rank() == 0:
            gc.collect()
            if self.device == "cuda":
                torch.cuda.empty_cache()
            with POSITION.working("answering a question", "answered a question", opaque=True):
                answer = self._answer(checkpoint)
        barrier()
        self._note(peak_memory_bytes=peak, answer=answer, went_on=answers)

    def _answer(self, checkpoint: Path) -> str:
        try:
            model = load_for_inference(checkpoint, device=self.device)
            dataset = self.parts.loader.dataset
            samples = (dataset[index] for index in _spread(len(dataset), _LOOKED_AT))
            sample = min(samples, key=lambda one: sum(len(turn.text) for turn in one.turns))
            prompt = evaluation_encoder(model).encode_prompt(sample.turns[:1], num_images=len(sample.images))
            question = Question(sample.id, prompt, sample.images)
            found = answer_questions(
                model.llava, model.processor, [question], batch_size=1, max_new_tokens=ANSWER_TOKENS
            )
            return next(iter(found))[1]
        except Exception as error:
            reason = error.message if isinstance(error, CrocError) else first_line(error)
            raise RunError(f"the checkpoint that was saved cannot answer: {reason}") from error

    def _check_trained_tokens(self) -> None:
        own = sum(int((batch.labels != IGNORE_INDEX).sum()) for batch in self.parts.loader[0])
        if sum(gather_from_ranks(own)) == 0:
            raise RunError(
                f"no token of the longest samples is trained, such as of {self._describe(self.longest[0])}",
                hint=f"raise {self.stage}.max_length, or see croc data show for what is trained of a row",
            )

    def _micro_batch(self) -> str:
        micro_size, row_tokens = self.section.batch.micro_size, self.section.row_tokens
        rows = "" if row_tokens is None else f" × {counted(row_tokens, 'token')} of packed samples"
        return f"{micro_size}{rows}"

    def _describe(self, index: int) -> str:
        dataset = self.parts.loader.dataset
        return f"{counted(dataset.length_hint(index), 'token')}, {dataset[index].id}"

    def _note(self, **values: Any) -> None:
        if rank() == 0:
            file = self.stage_dir.preflight_file
            write_json(file, {**read_json(file), **values})


class FirstSaveOnly:
    """Saves the first step alone: the one that fresh processes resume from.

    Args:
        saver: What saves it.
        folder: Of the checkpoints.
        check: Called with the checkpoint when it is complete.
    """

    def __init__(self, saver: Saver, folder: Path, *, check: Callable[[Path], None]) -> None:
        self.saver = saver
        self.saved = folder
        self.check = check

    @property
    def has_failed(self) -> bool:
        """Whether that save failed."""
        return self.saver.has_failed

    def save(self, state: TrainerState, health: dict[str, Any]) -> Path:
        """Save the first step, and return its checkpoint for every later one."""
        if state.step == 1:
            self.saved = self.saver.save(state, health)
            self.saver.finish()
            self.check(self.saved)
        return self.saved

    def finish(self) -> None:
        """Wait until it is complete, on all ranks."""
        self.saver.finish()

    def wait(self) -> None:
        """Wait for this rank's part alone."""
        self.saver.wait()


class ModuleCalls:
    """Counts how often each module with weights of its own runs, to see whether all ranks ran the same.

    Args:
        module: The model.
    """

    def __init__(self, module: nn.Module) -> None:
        self.counts: dict[str, int] = {}
        for name, part in module.named_modules():
            if next(part.parameters(recurse=False), None) is not None:
                self.counts[name] = 0
                part.register_forward_hook(self._counter(name))

    def _counter(self, name: str) -> Any:
        def count(*_: Any) -> None:
            self.counts[name] += 1

        return count

    def check(self) -> None:
        """Raise RunError where a rank ran a module more often or less often than rank 0."""
        first, *others = gather_from_ranks(self.counts)
        for number, counts in enumerate(others, start=1):
            for name, times in first.items():
                if counts.get(name) != times:
                    raise RunError(
                        f"ranks run different modules: rank 0 ran {name} {times} times, rank {number}"
                        f" {counts.get(name, 0)} times; under ZeRO they would wait for each other",
                        hint="every rank must run every module at every step, images or not",
                    )


def longest_samples(dataset: Dataset, count: int) -> list[int]:
    """Return the `count` longest samples, the longest first, alike on all ranks; some twice where there are fewer.

    Of drawn scenes, which must be made to know their length, some hundred are looked at.
    """
    looked_at = _spread(len(dataset), _DRAWN) if isinstance(dataset, SceneDataset) else range(len(dataset))
    hints = {index: dataset.length_hint(index) for index in looked_at} if rank() == 0 else {}
    ordered = sorted(hints, key=lambda index: (-hints[index], index))
    own = ordered[:count]
    if own and not any(dataset[index].images for index in own):  # pictures have a part in it, if there are any
        with_images = (index for index in ordered[count : count + _LOOKED_FOR_IMAGES] if dataset[index].images)
        own[-1] = next(with_images, own[-1])
    chosen = gather_from_ranks(own)[0]
    return [chosen[number % len(chosen)] for number in range(count)]


def filling(samples: list[int], loader: StepLoader, *, row_tokens: int) -> list[int]:
    """Return the first samples of a list, as many as one micro-batch of rows on each rank holds."""
    lengths = []
    for index in samples:
        sample = loader.dataset[index]
        lengths.append(len(loader.collator.encode(sample).input_ids))
        if len(first_fit(lengths, row_tokens)) > loader.sampler.micro_size * loader.sampler.num_ranks:
            return samples[: len(lengths) - 1]
    return samples


def end_tokens_saved(config: GenerationConfig) -> list[int]:
    """Return the tokens at which generation ends by a generation config alone, as stock transformers reads it."""
    ends = config.eos_token_id
    return sorted(ends) if isinstance(ends, list) else [] if ends is None else [ends]


def check_end_tokens(parts: StageParts, ends: list[int], *, template: str) -> None:
    """Raise RunError where no answer ends with a token that ends generation: the model would never learn to stop.

    The template `plain` of stage 1 ends captions with a line feed, as LLaVA's does, and is not asked.

    Args:
        parts: The stage's parts, whose samples are looked at.
        ends: Tokens at which generation ends.
        template: The stage's.
    """
    if template == "plain":
        return
    dataset, last = parts.loader.dataset, []
    apart = parts.loader.encoder.layout_ids | {IGNORE_INDEX}
    for index in _spread(len(dataset), _LOOKED_AT):
        sample = dataset[index]
        with suppress(ValueError, CrocError):
            encoded = parts.loader.encoder.encode(sample.turns, num_images=len(sample.images))
            trained = [token for token in encoded.labels if token not in apart]
            if trained and not encoded.truncated:
                last.append(trained[-1])
    tokenizer = parts.processor.tokenizer
    if last and not set(ends) & set(last):
        shown = tokenizer.convert_ids_to_tokens(last[0])
        raise RunError(
            f"no answer ends with an end token: template {template} ends them with {shown!r}, and generation ends at "
            f"{', '.join(map(repr, tokenizer.convert_ids_to_tokens(ends)))}",
            hint="a chat template must put the tokenizer's end token after an answer; or choose vicuna_v1",
        )


def _spread(length: int, count: int) -> range:
    """Return at most `count` indices spread over a length."""
    return range(0, length, max(1, -(-length // count)))
