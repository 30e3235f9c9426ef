"""Processor seconds of scoring each benchmark at its full size, from answers to headline, parts and interval.

The questions are the benchmarks' own golden records, drawn again and again until the size is reached, so that answers
and labels differ from record to record as little and as much as those do.
"""

import itertools
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.judged import JudgedBenchmark
from croc_cli.benchmarks.matching import match_answers
from croc_cli.benchmarks.registry import benchmarks
from tests.benchmarks.golden_files import load, write_files

VQAV2_VAL = 214_354
"""Answers of VQAv2's val split, the largest that can be scored without a server."""


def at_full_size(benchmark: Benchmark, root: Path) -> tuple[list[Record], list[str]]:
    """Return as many records and answers as the benchmark has, repeated from the golden ones under new names."""
    golden = load(benchmark.name)
    records = benchmark.read(write_files(benchmark.name, root))
    rows = [row if "prompt" in row else row | {"prompt": ""} for row in golden["predictions"]]
    records, texts = match_answers(benchmark, records, rows, partial=True)
    size = VQAV2_VAL if benchmark.name == "vqav2" else benchmark.size
    pairs = itertools.islice(itertools.cycle(zip(records, texts, strict=True)), size)
    numbered = [
        (replace(record, key=f"{number} {record.key}"), f"{text} {number % 977}" if number % 3 == 0 else text)
        for number, (record, text) in enumerate(pairs)
    ]
    return [record for record, _ in numbered], [text for _, text in numbered]


def main() -> None:
    """Print one line for each benchmark."""
    print(f"{'benchmark':18} {'answers':>9} {'match s':>8} {'score s':>8} {'interval s':>11} {'together':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for benchmark in benchmarks().values():
            if isinstance(benchmark, JudgedBenchmark):
                continue  # a judge's replies are waited for, not computed
            records, texts = at_full_size(benchmark, Path(folder))
            lines = "".join(
                json.dumps({"question_id": record.key, "prompt": "", "text": text}) + "\n"
                for record, text in zip(records, texts, strict=True)
            )
            started = time.process_time()
            rows = {row["question_id"]: row["text"] for row in map(json.loads, lines.splitlines())}
            answers = [rows[record.key] for record in records]
            matched = time.process_time()
            score = benchmark.score(records, answers)
            scored = time.process_time()
            score.interval()
            done = time.process_time()
            print(
                f"{benchmark.name:18} {len(records):9,} {matched - started:8.2f} {scored - matched:8.2f}"
                f" {done - scored:11.2f} {done - started:9.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
