"""A few OCRBench questions as the hub's file."""

from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from tests.benchmarks.golden_files import png

FORMULA = "Handwritten Mathematical Expression Recognition"
ROWS = [
    ("IIIT5K", "Regular Text Recognition", " what is written in the image?\n", ["Chain"]),
    ("ESTVQA", "Scene Text-centric VQA", "What is the brand?", ["coca cola", "coke"]),
    ("HME100k", FORMULA, "Please write out the formula.", ["x = \\frac { 1 } { 5 }\n"]),
    ("DocVQA", "Doc-oriented VQA", "Who signed?", ["J. Smith"]),
    ("SROIE", "Key Information Extraction", "What is the total?", ["26.58"]),
    ("WordArt", "Artistic Text Recognition", "what is written in the image?", ["Home"]),
]


def write_ocrbench(root: Path, **changes: Any) -> Path:
    """Write the hub's file, each row with the changes, and return the root."""
    names = ("dataset", "question_type", "question", "answer")
    rows = [dict(zip(names, row, strict=True)) | {"image": {"bytes": png(), "path": None}} | changes for row in ROWS]
    file = root / "ocrbench" / "data" / "test-00000-of-00001.parquet"
    file.parent.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return root
