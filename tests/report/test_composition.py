import json
from pathlib import Path
from typing import Any

import pytest

from croc_cli.report import composition
from croc_cli.report.composition import TEXT_ONLY, file_composition, stage_composition


def rows() -> list[dict[str, Any]]:
    pictures = ["coco/train2017/1.jpg"] * 3 + ["gqa/images/2.jpg"] + ["00123/4.jpg"]
    found: list[dict[str, Any]] = [{"id": i, "image": image, "conversations": []} for i, image in enumerate(pictures)]
    return [*found, {"id": "text", "conversations": []}]


def test_rows_are_counted_by_the_folder_of_their_picture(tmp_path: Path) -> None:
    file = tmp_path / "mix.json"
    file.write_text(json.dumps(rows()))
    expected = {"coco/train2017": 3, "gqa/images": 1, "pictures": 1, TEXT_ONLY: 1}
    assert file_composition(file) == (expected, "")
    assert sum(file_composition(file, limit=3)[0].values()) == pytest.approx(3)


def test_a_large_file_is_estimated_from_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mix.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for _ in range(2000) for one in rows()))
    monkeypatch.setattr(composition, "_WHOLE_BYTES", 1000)
    monkeypatch.setattr(composition, "_BLOCK_BYTES", 1000)
    counts, note = file_composition(file)
    assert "Estimated" in note
    assert sum(counts.values()) == pytest.approx(12_000, rel=0.15)
    assert counts["coco/train2017"] / sum(counts.values()) == pytest.approx(0.5, abs=0.07)


def test_scenes_tell_their_share_of_text_and_a_missing_file_has_no_rows(tmp_path: Path) -> None:
    scenes = {"kind": "scenes", "task": "detailed_captions", "num_samples": 100, "text_only_share": 0.2}
    assert stage_composition({"data": {"align": scenes}}, "align") == ({"detailed captions": 80.0, TEXT_ONLY: 20.0}, "")
    gone = {"kind": "llava_json", "path": str(tmp_path / "gone.json")}
    assert stage_composition({"data": {"align": gone}}, "align") == ({}, "")
    assert stage_composition({}, "align") == ({}, "")
