import errno
import json
import os
import subprocess
import sys
import threading

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from croc_cli.checkpoint import save
from croc_cli.checkpoint.metadata import CheckpointMetadata, StartPoint, read_metadata, verify_hashes, weights_sha256
from croc_cli.checkpoint.save import (
    complete_checkpoints,
    prune_checkpoints,
    remove_leftovers,
    resume_folder,
    save_checkpoint,
    step_folder_name,
    write_checkpoint,
)
from croc_cli.errors import RunError
from croc_cli.place import mark_folder
from tests.tiny import make_tiny_model, make_tiny_processor

RECIPE = "name: tiny\n"
METADATA = CheckpointMetadata(
    stage="finetune",
    step=3,
    start=StartPoint(path="runs/tiny/align/checkpoints/step-00000009", weights_sha256="ab" * 32),
    template="vicuna_v1",
    image_aspect="pad",
    health={"pool_used_share": 0.9},
    extra={"recipe": "tiny"},
)


@pytest.fixture(scope="module")
def parts():
    return make_tiny_model(), make_tiny_processor()


def save_step(folder, parts, step, **arguments):
    llava, processor = parts
    return save_checkpoint(
        folder / step_folder_name(step),
        llava=llava,
        processor=processor,
        metadata=METADATA,
        recipe_yaml=RECIPE,
        **arguments,
    )


def write_resume(folder):
    (folder / "engine").mkdir(parents=True)
    (folder / "engine" / "state.pt").write_bytes(b"state")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


STOCK_PROCESS = """
import sys, torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration
for folder in sys.argv[1:]:
    processor = AutoProcessor.from_pretrained(folder)
    llava = LlavaForConditionalGeneration.from_pretrained(folder)
    picture = Image.effect_mandelbrot((70, 50), (-2, -1, 1, 1), 50).convert("RGB")
    inputs = processor(images=picture, text="USER: <image>\\nWhat is it? ASSISTANT:", return_tensors="pt")
    with torch.no_grad():
        torch.save((dict(inputs), llava(**inputs).logits), folder + ".out")
assert not any(name.startswith("croc") for name in sys.modules)
"""


def test_a_process_without_croc_opens_it_and_gets_the_same_logits(tmp_path):
    models = {}
    for step, tied in enumerate((False, True)):
        llava = make_tiny_model(seed=4, tie_word_embeddings=tied)
        with torch.no_grad():  # as if trained: nothing that the seed alone would give
            for parameter in llava.parameters():
                parameter.add_(0.01)
        whole = {name: tensor.clone() for name, tensor in llava.state_dict().items()}
        models[save_step(tmp_path, (llava, make_tiny_processor()), step, state_dict=whole, keep=2)] = llava
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", STOCK_PROCESS, *models], check=True, env=environment, cwd=tmp_path)
    for folder, llava in models.items():
        inputs, logits = torch.load(f"{folder}.out")
        with torch.no_grad():
            expected = llava(**inputs).logits
        assert (logits - expected).abs().max() <= 1e-5
        assert expected.std() > 0.1


def test_the_weights_are_safetensors_alone_and_the_rest_lies_beside_them(tmp_path, parts):
    pool = {"pool.weight": torch.arange(6.0).reshape(2, 3)}
    folder = save_step(tmp_path, parts, 3, training_state=pool, write_resume=write_resume)
    assert {"config.json", "processor_config.json", "tokenizer.json", "model.safetensors"} <= set(names(folder))
    assert not [name for name in names(folder) if name.endswith((".bin", ".pt", ".pth"))]
    assert (folder / "recipe.yaml").read_text() == RECIPE
    assert load_file(folder / "croc_training_state.safetensors")["pool.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (folder / "resume" / "engine" / "state.pt").read_bytes() == b"state"
    metadata = read_metadata(folder)
    assert (metadata.stage, metadata.step, metadata.template) == ("finetune", 3, "vicuna_v1")
    assert metadata.start == METADATA.start
    assert metadata.health == {"pool_used_share": 0.9}
    assert metadata.extra == {"recipe": "tiny"}
    assert json.loads((folder / "croc.json").read_text())["recipe"] == "tiny"
    assert set(metadata.files) == {"model.safetensors", "croc_training_state.safetensors"}
    verify_hashes(folder)


def test_the_weights_hash_is_the_same_for_the_same_weights_and_ignores_the_pool(tmp_path, parts):
    first = save_step(tmp_path / "a", parts, 1)
    second = save_step(tmp_path / "b", parts, 2, training_state={"pool.weight": torch.ones(2, 3)})
    other = save_step(tmp_path / "c", (make_tiny_model(seed=1), parts[1]), 1)
    assert weights_sha256(first) == weights_sha256(second) != weights_sha256(other)


def test_weights_are_saved_in_the_dtype_that_the_model_computes_in(tmp_path, parts):
    llava = make_tiny_model().to(torch.bfloat16)
    masters = {name: tensor.float() for name, tensor in llava.state_dict().items()}
    folder = save_step(tmp_path, (llava, parts[1]), 1, state_dict=masters)
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_weights_that_are_not_whole_are_our_bug_and_never_a_checkpoint(tmp_path, parts):
    weights = dict(parts[0].state_dict())
    weights["lm_head.weight"] = torch.empty(0)
    with pytest.raises(AssertionError, match=r"ZeRO-3 has not gathered.*lm_head"):
        save_step(tmp_path, parts, 1, state_dict=weights)
    del weights["lm_head.weight"]
    with pytest.raises(AssertionError, match=r"missing.*lm_head"):
        save_step(tmp_path, parts, 1, state_dict=weights)
    assert names(tmp_path) == []


def fail_while(monkeypatch, phase, error):
    def broken(*arguments, **keywords):
        raise error

    if phase == "weights":
        monkeypatch.setattr("transformers.LlavaForConditionalGeneration.save_pretrained", broken)
    elif phase == "processor":
        monkeypatch.setattr("transformers.LlavaProcessor.save_pretrained", broken)
    else:
        monkeypatch.setattr(save, "_sync", broken)


@pytest.mark.parametrize("phase", ["weights", "processor", "sync"])
def test_a_full_disk_leaves_the_last_complete_checkpoint(tmp_path, parts, monkeypatch, phase):
    before = save_step(tmp_path, parts, 1, write_resume=write_resume)
    fail_while(monkeypatch, phase, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(RunError, match=r"step-00000002 failed: disk full .*last complete checkpoint stays: .*00000001"):
        save_step(tmp_path, parts, 2, write_resume=write_resume)
    assert names(tmp_path) == ["step-00000001"]
    verify_hashes(before)
    assert resume_folder(before) is not None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_known_by_the_words_of_torch_and_safetensors(tmp_path, parts, error):
    def resume(folder):
        raise error

    with pytest.raises(RunError, match=r"disk full.*no earlier checkpoint is there") as caught:
        save_step(tmp_path, parts, 1, write_resume=resume)
    assert "free some disk space" in caught.value.hint
    assert names(tmp_path) == []


def test_a_disk_too_small_is_found_before_anything_is_written(tmp_path, parts):
    called = []
    with pytest.raises(RunError, match=r"disk full .*GiB needed.*GiB free"):
        save_step(tmp_path, parts, 1, write_resume=called.append, resume_bytes=2**60)
    assert called == []
    assert names(tmp_path) == []


def test_another_error_is_named_and_not_called_a_full_disk(tmp_path, parts, monkeypatch):
    fail_while(monkeypatch, "processor", PermissionError(errno.EACCES, "Permission denied"))
    with pytest.raises(RunError, match=r"failed: PermissionError: .*Permission denied") as caught:
        save_step(tmp_path, parts, 1)
    assert "disk" not in caught.value.hint


def test_a_written_checkpoint_is_none_until_it_is_completed(tmp_path, parts):
    llava, processor = parts
    destination = tmp_path / "step-00000001"
    complete = write_checkpoint(
        destination, llava=llava, processor=processor, metadata=METADATA, recipe_yaml=RECIPE, write_resume=write_resume
    )
    assert complete_checkpoints(tmp_path) == []
    assert names(tmp_path) == [".step-00000001.tmp"]
    complete()
    assert complete_checkpoints(tmp_path) == [destination]
    verify_hashes(destination)


def test_a_save_that_was_killed_before_it_marked_its_folder_is_no_obstacle(tmp_path, parts):
    (tmp_path / ".step-00000001.tmp").mkdir()
    (tmp_path / ".step-00000001.tmp" / ".croc.json.new").write_text("{")
    save_step(tmp_path, parts, 1)
    assert names(tmp_path) == ["step-00000001"]


class Died(BaseException):
    """The process ends here: nothing catches it, so nothing is cleaned up."""


@pytest.mark.parametrize(
    ("where", "complete", "leftover"),
    [
        ("write_main", ["step-00000001"], True),
        ("sha256_of", ["step-00000001"], True),
        ("_sync", ["step-00000001"], True),
        ("prune_checkpoints", ["step-00000001", "step-00000002"], False),
    ],
)
def test_a_crash_leaves_whole_checkpoints_and_the_next_save_clears_the_rest(
    tmp_path, parts, monkeypatch, where, complete, leftover
):
    def die(*arguments, **keywords):
        raise Died

    save_step(tmp_path, parts, 1, write_resume=write_resume)
    with monkeypatch.context() as patch:
        patch.setattr(save, where, die)
        with pytest.raises(Died):
            save_step(tmp_path, parts, 2, write_resume=write_resume)
    assert [path.name for path in complete_checkpoints(tmp_path)] == complete
    for folder in complete_checkpoints(tmp_path):
        verify_hashes(folder)
        assert resume_folder(folder) is not None
    assert any(name.startswith(".") for name in names(tmp_path)) == leftover
    save_step(tmp_path, parts, 3, keep=5)
    assert names(tmp_path) == [*complete, "step-00000003"]


def test_the_newest_checkpoints_stay_and_only_the_newest_can_resume(tmp_path, parts):
    for step in (5, 10, 100):
        save_step(tmp_path, parts, step, write_resume=write_resume, keep=2)
    assert names(tmp_path) == ["step-00000010", "step-00000100"]
    assert resume_folder(tmp_path / "step-00000010") is None
    assert not [name for name in names(tmp_path / "step-00000010") if "resume" in name]
    assert resume_folder(tmp_path / "step-00000100") is not None


def test_keeping_one_removes_every_older_one(tmp_path):
    for step in (1, 2, 3):
        (tmp_path / step_folder_name(step)).mkdir()
        mark_folder(tmp_path / step_folder_name(step), "checkpoint")
    prune_checkpoints(tmp_path, 1)
    assert names(tmp_path) == ["step-00000003"]


def test_an_older_one_with_a_users_file_stays(tmp_path):
    for step in (1, 2, 3):
        (tmp_path / step_folder_name(step)).mkdir()
        mark_folder(tmp_path / step_folder_name(step), "checkpoint")
    (tmp_path / "step-00000001" / "notes.txt").write_text("the best one so far")
    prune_checkpoints(tmp_path, 1)
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


def test_a_saved_checkpoint_holds_only_what_pruning_knows(tmp_path, parts):
    for step in (1, 2):
        save_step(tmp_path, parts, step)
    prune_checkpoints(tmp_path, 1)
    assert names(tmp_path) == ["step-00000002"]


def test_the_same_step_can_be_saved_again(tmp_path, parts):
    save_step(tmp_path, parts, 1)
    again = save_step(tmp_path, (make_tiny_model(seed=9), parts[1]), 1)
    assert names(tmp_path) == ["step-00000001"]
    expected = save_step(tmp_path / "other", (make_tiny_model(seed=9), parts[1]), 1)
    assert weights_sha256(again) == weights_sha256(expected)
    verify_hashes(again)


def test_a_checkpoint_that_was_being_replaced_comes_back(tmp_path):
    (tmp_path / ".step-00000001.old").mkdir()
    (tmp_path / ".step-00000001.old" / "croc.json").write_text("{}")
    (tmp_path / ".step-00000001.tmp").mkdir()
    (tmp_path / ".step-00000001.tmp" / ".croc.json.new").write_text("{")
    mark_folder(tmp_path / ".step-00000001.tmp", "checkpoint")
    (tmp_path / ".step-00000002.tmp").mkdir()
    (tmp_path / ".step-00000002.tmp" / "photo.jpg").write_text("the user's")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".step-00000002.tmp", "step-00000001"]
    assert names(tmp_path / "step-00000001") == ["croc.json"]


class Ranks:
    """Two threads that gather as two ranks do, and fail loudly where one waits alone."""

    def __init__(self):
        self.values = [None, None]
        self.barrier = threading.Barrier(2, timeout=20)

    def gather(self, rank, value):
        self.values[rank] = value
        self.barrier.wait()
        gathered = list(self.values)
        self.barrier.wait()
        return gathered


@pytest.mark.parametrize("failing", [None, 0, 1])
def test_no_rank_waits_for_one_that_failed(tmp_path, parts, failing):
    ranks, outcome = Ranks(), [None, None]

    def run(rank):
        def resume(folder):
            if rank == failing:
                raise OSError(errno.ENOSPC, "No space left on device")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"rank-{rank}.pt").write_bytes(b"x")

        try:
            outcome[rank] = save_step(
                tmp_path,
                parts,
                1,
                write_resume=resume,
                is_main=rank == 0,
                gather=lambda value: ranks.gather(rank, value),
            )
        except RunError as error:
            outcome[rank] = error.message

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failing is None:
        assert outcome == [tmp_path / "step-00000001"] * 2
        assert names(tmp_path / "step-00000001" / "resume") == ["rank-0.pt", "rank-1.pt"]
    else:
        assert all("disk full" in message for message in outcome)
        assert names(tmp_path) == []
