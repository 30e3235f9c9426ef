"""What `croc eval score FILE` does: score answers that another tool wrote, and leave the file as it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from croc_cli.console import result, say
from croc_cli.errors import UsageError
from croc_cli.pipeline.benchmarks import data_root
from croc_cli.run_dir import StageDir, read_json, sha256_of

if TYPE_CHECKING:
    from croc_cli.benchmarks.base import Benchmark
    from croc_cli.benchmarks.compare import TableFormat
    from croc_cli.benchmarks.judge import Judge


@dataclass(frozen=True)
class FileRequest:
    """The flags of `croc eval score FILE`.

    Attributes:
        data: Root of the benchmark files; None takes the usual places.
        out: Folder for results.json, items/ and submissions/; None prints the score alone.
        partial: Score incomplete answers.
        limit: Score so many questions alone, spread over all.
        form: Of the table.
    """

    data: Path | None = None
    out: Path | None = None
    partial: bool = False
    limit: int | None = None
    form: "TableFormat" = "text"


def score_file(file: Path, benchmark: "Benchmark", request: FileRequest, *, judge: "Judge | None") -> None:
    """Score the answers in a file, print the table and, where asked for, write the scores.

    Raises:
        UsageError: The answers do not fit the questions, or the folder for scores is something else's.
    """
    from croc_cli.benchmarks.compare import comparison_rows, format_rows
    from croc_cli.benchmarks.foreign import read_foreign
    from croc_cli.benchmarks.results import score_rows, write_results

    stage_dir = StageDir(request.out) if request.out is not None else None
    if stage_dir is not None:
        _check_free(stage_dir)
    records = benchmark.read(data_root(request.data))
    answers = read_foreign(file, benchmark, records)
    say(f"{file}: {answers.describe()}")
    made_by = {
        "answers": str(file),
        "answers_sha256": sha256_of(file),
        "keys": dict(answers.keys),
    }
    entry = score_rows(
        benchmark,
        records,
        answers.rows,
        stage_dir,
        made_by=made_by,
        partial=request.partial,
        limit=request.limit,
        judge=judge,
    )
    if entry["value"] is None and "submission" not in entry:
        raise UsageError(
            f"{benchmark.name}: its labels are at a server, so there is no score here",
            hint="--out DIR writes the file that the server takes",
        )
    result(format_rows(comparison_rows({file.name: {benchmark.name: entry}}, paper=False), request.form))
    if stage_dir is not None:
        written = write_results(stage_dir, {benchmark.name: entry}, model={"answers": str(file)})
        say(f"scores with their parts are in {written}")


def _check_free(stage_dir: StageDir) -> None:
    """Refuse a folder that holds anything but scores that croc wrote.

    Raises:
        UsageError: It does; it is named.
    """
    folder = stage_dir.root
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file", hint="name a folder that is new or empty")
    if folder.is_dir() and any(folder.iterdir()) and "benchmarks" not in read_json(stage_dir.results_file):
        raise UsageError(f"--out {folder} holds other files", hint="name a folder that is new or empty")
