"""Which stages an ablation takes, each once: those that rows share are found by the hash of all that decides them."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from croc_cli.errors import RecipeError
from croc_cli.launch.stage_state import fingerprint, started_elsewhere
from croc_cli.names import BENCHMARKS, STAGES
from croc_cli.place import claim_folder
from croc_cli.recipe.load import load_resolved
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import EARLIER_BENCHMARKS, RunDir, StageDir

HASH_LETTERS = 16


@dataclass(frozen=True)
class ChainLink:
    """One stage of a row's pipeline.

    Args:
        stage: A training stage, or `eval`.
        hash: Of everything that decides what it comes to: its own settings and those of all stages before it.
        start: Hash of the stage that it starts from; None for the model assembled from tower and LLM.
    """

    stage: str
    hash: str
    start: str | None


@dataclass
class RowRun:
    """One row with one seed.

    Args:
        row: Its recipe's name below `ablations/`.
        seed: Of every stage.
        recipe: The recipe.
        links: Its stages in order.
    """

    row: str
    seed: int
    recipe: Recipe
    links: list[ChainLink] = field(default_factory=list)


def chain(recipe: Recipe) -> list[ChainLink]:
    """Return the stages of a recipe, each with the hash of all that decides it."""
    names: list[str] = [stage for stage in STAGES if recipe.stage(stage).enabled]
    if recipe.eval.benchmarks:
        names.append("eval")
    return _links((name, fingerprint(recipe, name)) for name in names)


def _links(fingerprints: Iterable[tuple[str, str]]) -> list[ChainLink]:
    links: list[ChainLink] = []
    before: str | None = None
    for stage, own in fingerprints:
        digest = hashlib.sha256(f"{before}/{stage}/{own}".encode()).hexdigest()[:HASH_LETTERS]
        links.append(ChainLink(stage, digest, before))
        before = digest
    return links


def stages_of_run(run_dir: RunDir) -> Iterator[tuple[str, StageDir]]:
    """Yield (hash, folder) of the finished stages of a run, as far as each started from the one before it.

    The recipe that lies in each stage's folder is what counts, not the name of the run.
    """
    seen: list[tuple[str, str]] = []
    before: StageDir | None = None
    for name in (*STAGES, "eval"):
        stage_dir = run_dir.step(name)
        if not stage_dir.exists():
            continue
        start = before.latest_checkpoint() if before is not None else None
        if not _is_done(stage_dir) or started_elsewhere(stage_dir, start):
            return
        try:
            seen.append((name, fingerprint(load_resolved(stage_dir.recipe_file), name)))
        except RecipeError:
            return
        yield _links(seen)[-1].hash, stage_dir
        before = stage_dir


def _is_done(stage_dir: StageDir) -> bool:
    """Tell whether a stage reached its last step, or an evaluation its scores."""
    return stage_dir.finished() if stage_dir.name in STAGES else stage_dir.is_scored()


class StageStore:
    """The stages of an ablation on disk, each in a folder of its hash, and those of other runs that it may use.

    Args:
        root: The ablation's folder.
        reuse: Run folders whose finished stages serve as well.
    """

    def __init__(self, root: Path, *, reuse: Sequence[Path] = ()) -> None:
        self.root = root
        self._elsewhere = {found: stage for folder in reuse for found, stage in stages_of_run(RunDir(folder))}

    def home(self, link: ChainLink) -> RunDir:
        """Return the folder, laid out as a run, that a stage has here."""
        return RunDir(self.root / "stages" / link.hash)

    def find(self, link: ChainLink) -> StageDir | None:
        """Return the finished stage of a hash, or None."""
        own = self.home(link).step(link.stage)
        if _is_done(own):
            return own
        return self._elsewhere.get(link.hash)

    def begun(self, link: ChainLink) -> bool:
        """Tell whether a stage that is not finished has a checkpoint to go on from."""
        return self.home(link).stage(link.stage).latest_checkpoint() is not None

    def checkpoint(self, row: RowRun, hash_of_start: str | None) -> Path | None:
        """Return the last checkpoint of the stage of a hash in a row; None for the assembled model."""
        if hash_of_start is None:
            return None
        link = next(link for link in row.links if link.hash == hash_of_start)
        found = self.find(link)
        return found.latest_checkpoint() if found is not None else None

    def row_folder(self, row: str, seed: int) -> Path:
        """Return the folder in which the stages of a row lie side by side, as links."""
        return self.root / "rows" / row / f"seed-{seed}"

    def claim(self) -> None:
        """Make the folder an ablation's, or raise UsageError where a user's files lie in the places of its own."""
        claim_folder(self.root, "ablation", ("rows", "stages"), is_proven=any(self.root.glob("stages/*/*/launch.json")))

    def link_row(self, run: RowRun) -> Path:
        """Make the row's folder look like a run: a link to the folder of each finished stage."""
        self.claim()
        folder = self.row_folder(run.row, run.seed)
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*STAGES, EARLIER_BENCHMARKS, BENCHMARKS):
            if (folder / name).is_symlink():
                (folder / name).unlink()
        for link in run.links:
            if (found := self.find(link)) is not None:
                (folder / found.name).symlink_to(found.root.resolve())
        return folder


def open_links(runs: Sequence[RowRun], store: StageStore) -> dict[str, tuple[ChainLink, Recipe]]:
    """Return the stages that are not finished yet, each once, in the order in which they will run."""
    found: dict[str, tuple[ChainLink, Recipe]] = {}
    for run in runs:
        for link in run.links:
            if link.hash not in found and store.find(link) is None:
                found[link.hash] = (link, run.recipe)
    return found
