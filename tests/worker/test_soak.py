"""Two thousand steps of nano through forty seeded faults come to what an unbroken run comes to, bit for bit."""

import json
import os
from pathlib import Path

import pytest
import torch

from tests.mounts import small_disk
from tests.worker import harness, soak
from tests.worker.test_killed import seen

NUM_STEPS = int(os.environ.get("CROC_SOAK_STEPS", "2000"))
DISK_MEBIBYTES = 256
SAME = ("loss", "caption_loss", "reconstruction_loss", "learning_rate", "tokens", "samples", "skipped", "bad_images")


def largest_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours)


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
def test_a_run_with_a_fault_in_every_fifty_steps_ends_as_the_unbroken_one(tmp_path: Path) -> None:
    data, unbroken_root = tmp_path / "data", tmp_path / "unbroken"
    for name in ("seen", "seen-unbroken"):
        (tmp_path / name).mkdir()
    num_samples = NUM_STEPS * soak.GLOBAL_SIZE
    faults = soak.plan_faults(NUM_STEPS)
    with small_disk(tmp_path / "disk", mebibytes=DISK_MEBIBYTES) as disk:
        soak.make_data(data, num_samples=num_samples)
        recipe = soak.make_recipe(data, num_steps=NUM_STEPS)
        spoil = soak.pictures_to_corrupt(faults, data=data, num_samples=num_samples)
        whole = {picture: picture.read_bytes() for picture in spoil.values()}
        expected_dir = soak.run_unbroken(
            unbroken_root, recipe, num_steps=NUM_STEPS, spoil=list(whole), seen=tmp_path / "seen-unbroken"
        )
        for picture, content in whole.items():
            picture.write_bytes(content)
        stage_dir, figures = soak.run_soak(
            disk, recipe, faults, num_steps=NUM_STEPS, spoil=spoil, seen=tmp_path / "seen"
        )
        expected, found = harness.metrics(expected_dir), harness.metrics(stage_dir)
        difference = largest_difference(harness.weights(stage_dir), harness.weights(expected_dir))
        print(json.dumps(figures.as_json() | {"largest_difference_of_a_weight": difference}))
        counts = [json.loads(run.summary_file.read_text())["counts"] for run in (stage_dir, expected_dir)]

    assert figures.faults.total() == len(faults) == NUM_STEPS // soak.FAULT_EVERY
    assert figures.steps_lost == 0
    assert [row["step"] for row in found] == list(range(1, NUM_STEPS + 1))
    assert seen(tmp_path / "seen") == seen(tmp_path / "seen-unbroken")
    for ours, theirs in zip(found, expected, strict=True):
        assert {key: ours[key] for key in SAME} == {key: theirs[key] for key in SAME}
    assert counts[0] == counts[1]
    assert counts[0]["bad_images"] == len(spoil) == figures.faults["corrupt image"]
    assert difference == 0.0
