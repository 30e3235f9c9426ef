"""Has the tokens of a mix's rows counted, in processes of their own: tokenizers are heavy."""

import os
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

from croc_cli.files import own_path

if TYPE_CHECKING:
    from croc_cli.recipe.schema import Recipe
    from croc_cli.sources.mix.lengths import Counting, LengthsCount

ROWS_PER_PROCESS = 20_000
"""Rows from which on another process is worth its start."""
_AHEAD = 3
"""Blocks that wait for each process."""


def count_lengths(recipe: "Recipe", stage: str, folder: Path) -> None:
    """Have the lengths of a mix's rows counted with a stage's tokenizer and template, resuming where it stopped.

    Where the tokenizer is not on this machine, the index's estimates stay, and that is said.
    """
    from multiprocessing import get_context

    from croc_cli.console import say
    from croc_cli.errors import RunError
    from croc_cli.sources.mix.lengths import Counting, LengthsCount, known_lengths
    from croc_cli.sources.read.index import MixFolder

    files = _files_key(recipe, stage)
    if known_lengths(folder, files) is not None:
        return
    stays = (
        f"note: the tokenizer of {recipe.model.llm} is not on this machine, so the lengths of {folder} stay estimates;"
        " the same command counts them once it is"
    )
    if files is None:
        say(stays)
        return
    section = recipe.stage(stage)
    template = section.template
    counting = Counting(_llm(recipe), recipe.model.llm_revision, template, section.template_options)
    about = {"llm": recipe.model.llm, "template": template, "files": files}
    mix = MixFolder(folder)
    num_workers = min(os.cpu_count() or 1, 1 + len(mix) // ROWS_PER_PROCESS)
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        try:
            key = pool.submit(_key, counting).result()
            if key is None:
                say(stays)
                return
            with LengthsCount(mix, key, about) as lengths:
                num_estimated = _count(pool, num_workers, counting, lengths)
        except BrokenProcessPool as error:
            raise RunError(
                f"a process that counted the tokens of {folder} was killed",
                hint="most likely memory ran out; the same command resumes from there",
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if num_estimated:
        say(f"note: template {template} does not take {num_estimated:,} rows of {folder}; their lengths are estimates")


def _count(pool: ProcessPoolExecutor, num_workers: int, counting: "Counting", lengths: "LengthsCount") -> int:
    """Count what is not counted yet, and return how many lengths are estimates."""
    from croc_cli.progress import work_line

    folder, total = lengths.mix.folder, len(lengths.mix)
    running: deque[tuple[list[int], Future[tuple[list[int], int]]]] = deque()
    done, num_estimated = lengths.num_counted, 0
    with work_line("rows") as line:
        blocks = lengths.open_blocks()
        while True:
            while len(running) < _AHEAD * num_workers and (places := next(blocks, None)) is not None:
                running.append((places, pool.submit(_rows, counting, folder, places)))
            line("counting tokens", min(done, total), total)
            if not running:
                break
            places, job = running.popleft()
            counts, estimated = job.result()
            lengths.store(places, counts)
            done += len(places)
            num_estimated += estimated
    lengths.finish()
    return num_estimated


def _key(counting: "Counting") -> str | None:
    from croc_cli.data.lengths import current_key

    return current_key(counting)


def _rows(counting: "Counting", folder: Path, places: list[int]) -> tuple[list[int], int]:
    from croc_cli.data.lengths import count_rows

    return count_rows(counting, folder, places)


def _llm(recipe: "Recipe") -> str:
    from croc_cli.recipe.facts import builtin_folder

    folder = builtin_folder(recipe.model.llm, "llm") or own_path(recipe.model.llm)
    return str(folder if folder.exists() else recipe.model.llm)


def _files_key(recipe: "Recipe", stage: str) -> str | None:
    from croc_cli.recipe.facts import local_folder
    from croc_cli.sources.mix.lengths import files_key, template_key

    folder = local_folder(recipe.model.llm, "llm", recipe.model.llm_revision)
    section = recipe.stage(stage)
    return None if folder is None else files_key(folder, template_key(section.template, section.template_options))
