import base64
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from croc_cli.sources.verify.overlap import eval_images
from croc_cli.sources.verify.verify import verify_mix
from tests.sources.data import (
    encoded,
    image_row,
    picture,
    write_json,
    write_pictures,
)
from tests.sources.verify.test_verify import examples


@pytest.mark.usefixtures("in_this_process")
def test_images_of_the_evaluation_sets_are_reported_before_anyone_trains_on_them(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "images", 3)
    (images / "000000000042.jpg").write_bytes(encoded(picture(42)))
    pope, mme = tmp_path / "eval" / "pope" / "val2014", tmp_path / "eval" / "MME"
    pope.mkdir(parents=True)
    mme.mkdir(parents=True)
    (pope / "COCO_val2014_000000000042.jpg").write_bytes(encoded(picture(7)))
    (mme / "other.jpg").write_bytes((images / "00001.jpg").read_bytes())
    rows = [image_row(n) for n in range(3)] + [image_row(42, image="000000000042.jpg")]
    path = write_json(tmp_path / "rows.json", rows)
    shallow = verify_mix(path, image_folder=images, eval_folder=tmp_path / "eval")
    assert examples(shallow, "eval-overlap") == ("000000000042.jpg: pope",)
    deep = verify_mix(path, image_folder=images, eval_folder=tmp_path / "eval", deep=True)
    assert set(examples(deep, "eval-overlap")) == {"000000000042.jpg: pope", "00001.jpg: MME"}
    [finding] = deep.findings
    assert finding.hint == "1 of MME, 1 of pope"
    assert deep.ok


@pytest.mark.usefixtures("in_this_process")
def test_images_of_the_evaluation_sets_are_found_in_tables_too(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "images", 3)
    for number in (42, 43):
        (images / f"{number:012}.jpg").write_bytes(encoded(picture(number)))
    evaluation = tmp_path / "eval"
    named = [{"bytes": encoded(picture(7)), "path": "COCO_val2014_000000000042.jpg"}]
    held = [[{"bytes": (images / "00001.jpg").read_bytes(), "path": None}]]
    for folder, columns in {
        "textvqa": {"image": named},
        "pope": {"image": [encoded(picture(8))], "image_source": ["COCO_val2014_000000000043"]},
        "seed_bench": {"image": held},
    }.items():
        (evaluation / folder).mkdir(parents=True)
        parquet.write_table(pa.table(columns), evaluation / folder / "test-00000-of-00001.parquet")
    (evaluation / "mmbench").mkdir()
    cell = base64.b64encode((images / "00002.jpg").read_bytes()).decode()
    (evaluation / "mmbench" / "mmbench_dev_20230712.tsv").write_text(f"index\timage\n1\t{cell}\n2\t1\n")
    more = [base64.b64encode(content).decode() for content in ((images / "00000.jpg").read_bytes(), b"another")]
    (evaluation / "mmmu").mkdir()
    (evaluation / "mmmu" / "MMMU_DEV_VAL.tsv").write_text(f"index\timage\n1\t{more}\n")
    (evaluation / "textvqa" / "broken.parquet").write_bytes(b"PAR1, cut short")
    rows = [image_row(n) for n in range(3)] + [image_row(n, image=f"{n:012}.jpg") for n in (42, 43)]
    path = write_json(tmp_path / "rows.json", rows)

    shallow = verify_mix(path, image_folder=images, eval_folder=evaluation)
    assert set(examples(shallow, "eval-overlap")) == {"000000000042.jpg: textvqa", "000000000043.jpg: pope"}
    deep = verify_mix(path, image_folder=images, eval_folder=evaluation, deep=True)
    assert set(examples(deep, "eval-overlap")) == {
        "000000000042.jpg: textvqa",
        "000000000043.jpg: pope",
        "00000.jpg: mmmu",
        "00001.jpg: seed_bench",
        "00002.jpg: mmbench",
    }
    listed = eval_images(evaluation, contents=False)
    assert set(listed.coco) == {42, 43}
    assert not listed.sha256
    [unreadable] = examples(deep, "eval-unreadable")
    assert unreadable.startswith(f"{evaluation / 'textvqa' / 'broken.parquet'}: ")
