"""A few MMMU questions in every form that their files have."""

import base64
import io
from pathlib import Path
from typing import Any

import pyarrow
from PIL import Image
from pyarrow import parquet

ROWS = [
    ("validation_Accounting_1", "Which bar of <image 1> is higher?", "['$6', '$7', 'Neither of them']", 1, "B"),
    ("validation_Accounting_2", "Add <image 2> to <image 1>.", "[]", 2, "1200"),
    ("validation_Art_1", "Which fits <image 1>?", "['<image 2>', '<image 3>']", 3, "A"),
    ("validation_Physics_1", "What is \\\\mu in <image 1>?", "[]", 1, "['0.5', 'one half']"),
]


def colour(number: int) -> bytes:
    """Return a picture that tells which one of its question it is."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(stream, format="PNG")
    return stream.getvalue()


def hub_rows() -> list[dict[str, Any]]:
    """Return the questions as lmms-lab/MMMU and MMMU/MMMU have them."""
    return [
        {"id": key, "question": question, "options": options, "answer": answer, "question_type": "open"}
        | {f"image_{n}": {"bytes": colour(n), "path": None} if n <= number else None for n in range(1, 8)}
        for key, question, options, number, answer in ROWS
    ]


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write a parquet file whose columns of pictures are such even where they are empty."""
    picture = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    fields = [(name, picture if name.startswith("image_") else pyarrow.string()) for name in rows[0]]
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(fields)), file, row_group_size=2)


def write_merged(root: Path, rows: list[dict[str, Any]] | None = None) -> Path:
    """Write the one file of lmms-lab/MMMU and return the root."""
    write_rows(root / "mmmu" / "data" / "validation-00000-of-00001.parquet", rows or hub_rows())
    return root


def write_subjects(root: Path) -> Path:
    """Write the folders of MMMU/MMMU and return the root."""
    for subject in ("Accounting", "Art", "Physics"):
        rows = [row for row in hub_rows() if f"_{subject}_" in row["id"]]
        write_rows(root / "mmmu" / subject / "validation-00000-of-00001.parquet", rows)
        write_rows(root / "mmmu" / subject / "test-00000-of-00001.parquet", rows)
    return root


def write_table(root: Path) -> Path:
    """Write VLMEvalKit's table and return the root."""
    lines = ["index\tid\tquestion\tA\tB\tC\tanswer\tsplit\timage"]
    for index, (key, question, options, number, answer) in enumerate(ROWS):
        cells = [base64.b64encode(colour(n)).decode() for n in range(1, number + 1)]
        texts = ([one.strip("' ") for one in options.strip("[]").split(", ")] + ["", "", ""])[:3]
        image = str(cells) if number > 1 else cells[0]
        lines.append("\t".join([str(index), key, question.replace("\\\\", "\\"), *texts, answer, "validation", image]))
    lines.append("\t".join(["9", "dev_Art_1", "Which?", "one", "two", "", "A", "dev", "0"]))
    (root / "mmmu").mkdir(parents=True)
    (root / "mmmu" / "MMMU_DEV_VAL.tsv").write_text("\n".join(lines) + "\n")
    return root
