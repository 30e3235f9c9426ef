"""A step whose assignments are begun ahead, against one whose micro-batches each begin their own."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from croc_cli.data.micro_batch import MicroBatch
from croc_cli.data.places import find_places
from croc_cli.model.lmm import MultimodalModel
from croc_cli.model.token_pool import TokenPool, initialise_pool
from croc_cli.objectives.settings import ObjectiveSettings
from croc_cli.train.ahead import Ready, make_ready, why_not_ahead
from croc_cli.train.loss_groups import LossGroups
from croc_cli.train.stage_module import StageModule
from croc_cli.train.step_report import StepSums
from tests.model.batches import IMAGE, make_batch
from tests.tiny import LLM_WIDTH, NUM_VISUAL_TOKENS, make_tiny_model

CPU = torch.device("cpu")
STEP = (
    ([1, IMAGE, 17, 201, 202], [1, 40, 203]),
    ([1, 41, 204], [1, 42, 205]),
    ([1, IMAGE, 17, IMAGE, 206], [1, IMAGE, 207]),
    ([1, IMAGE, 208], [1, 43]),
)
"""Micro-batches with a text-only row, of text-only rows alone, with several images a row, and with a row that trains
nothing."""


def make_module(*, matching: str = "hungarian", train_tower: bool = False) -> StageModule:
    pool = TokenPool(24, LLM_WIDTH)
    llava = make_tiny_model()
    llava.model.vision_tower.requires_grad_(train_tower)
    model = MultimodalModel(
        llava,
        num_visual_tokens=NUM_VISUAL_TOKENS,
        pool=pool,
        matching="hungarian" if matching == "shared" else matching,
        shares_assignment=matching == "shared",
        attention_kind="mixed",
    )
    pixels = make_batch([[1, IMAGE]] * 3)["pixel_values"]
    with torch.no_grad():
        tokens = model.encode_images(pixels).flatten(0, 1)
    initialise_pool(pool.weight, tokens, "moments", torch.Generator().manual_seed(0))
    return StageModule(model, ObjectiveSettings()).train()


def make_step() -> list[MicroBatch]:
    micro_batches = []
    for rows in STEP:
        has_image = any(IMAGE in row for row in rows)
        batch = make_batch(rows, num_masked=12, num_blanks=0 if has_image else 1)
        ids = [f"{len(micro_batches)}-{number}" for number in range(len(rows))]
        more = {"sources": ["x"] * len(rows), "num_images": [row.count(IMAGE) for row in rows]}
        counts = {"num_samples": len(rows), "num_truncated": 0, "num_dropped": 0, "bad_images": []}
        places = find_places(
            *(batch[name] for name in ("input_ids", "labels", "image_rows")),
            image_token_id=make_tiny_model().config.image_token_id,
            num_visual_tokens=NUM_VISUAL_TOKENS,
        )
        micro_batches.append(MicroBatch(**batch, sample_ids=ids, places=places, **more, **counts))
    return micro_batches


def run(module: StageModule, ready: Iterable[Ready]) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
    """Return the losses, the assignments and the gradients of a step."""
    one = torch.ones(())
    losses, assignments = [], []
    for batch, assignment in ready:
        loss, parts = module(batch, token_weight=one, image_weight=one, assignment=assignment)
        loss.backward()
        losses.append(loss.detach())
        assert parts.assignment is not None
        assignments.append(parts.assignment)
    found = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
    return losses, assignments, found


@pytest.mark.parametrize("train_tower", [False, True])
@pytest.mark.parametrize("matching", ["hungarian", "nearest", "shared"])
def test_losses_assignments_and_gradients_are_the_same_bit_for_bit(matching: str, train_tower: bool) -> None:
    results = []
    for ahead in (False, True):
        module = make_module(matching=matching, train_tower=train_tower)
        results.append(run(module, make_ready(module.model, make_step(), CPU, ahead=ahead)))
    (losses, assignments, gradients), (losses_ahead, assignments_ahead, gradients_ahead) = results
    assert all(torch.equal(a, b) for a, b in zip(losses, losses_ahead, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(assignments, assignments_ahead, strict=True))
    assert gradients.keys() == gradients_ahead.keys()
    assert all(torch.equal(gradients[name], gradients_ahead[name]) for name in gradients)


def test_all_assignments_are_begun_before_the_first_forward_pass_and_the_frozen_tower_runs_once() -> None:
    module = make_module()
    tower_runs = []
    module.model.llava.model.vision_tower.register_forward_hook(lambda *_: tower_runs.append(1))
    step = make_step()
    ready = list(make_ready(module.model, step, CPU, ahead=True))
    assert len(tower_runs) == len(step)
    assert all(batch.pixel_values.dim() == 3 and assignment is not None for batch, assignment in ready)
    run(module, ready)
    assert len(tower_runs) == len(step)


def test_a_trained_tower_keeps_its_pixels_for_the_pass_with_gradients() -> None:
    module = make_module(train_tower=True)
    ready = list(make_ready(module.model, make_step(), CPU, ahead=True))
    assert all(batch.pixel_values.dim() == 4 and assignment is not None for batch, assignment in ready)
    assert why_not_ahead(module.model, CPU) == "the vision tower is trained, and would run twice on the CPU"
    assert why_not_ahead(module.model, torch.device("cuda")) is None


def test_a_step_of_one_micro_batch_begins_nothing_ahead() -> None:
    module = make_module()
    [(batch, assignment)] = make_ready(module.model, make_step()[:1], CPU, ahead=True)
    assert batch.pixel_values.dim() == 4
    assert assignment is None


@pytest.mark.gpu
def test_a_step_makes_the_host_wait_for_the_gpu_at_no_operation() -> None:
    module = make_module().to("cuda")
    device = torch.device("cuda", torch.cuda.current_device())
    step = [batch.pin_memory() for batch in make_step()]

    def run_step() -> StepSums:
        sums = StepSums(24, device, objectives=module.objectives, groups=LossGroups(()))
        one = torch.full((), 1.0, device=device)
        for batch, (there, assignment) in zip(step, make_ready(module.model, step, device, ahead=True), strict=True):
            loss, parts = module(there, token_weight=one, image_weight=one, assignment=assignment)
            loss.backward()
            sums.add(loss, parts, batch)
        sums.queue()
        return sums

    run_step()  # libraries and memory are set up at the first step
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sums = run_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    sums.read()
    assert sums.caption > 0
