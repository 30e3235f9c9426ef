"""Ranks that hang: each says where it is, and ends."""

from pathlib import Path

from croc_cli.launch.failure import explain_failure
from croc_cli.launch.rank_watch import RankWatch, innermost_calls, read_report
from tests.worker import harness
from tests.worker.faults import Fault
from tests.worker.ranks import run_ranks

STALL_SECONDS = 6.0


def test_a_rank_that_hangs_is_named_with_its_place_and_the_others_are_in_a_collective(
    home: Path, tmp_path: Path
) -> None:
    recipe = harness.make_recipe(
        home, finetune={"zero_stage": 2, "save_every": 1}, launch={"stall_timeout": STALL_SECONDS}
    )
    fault = Fault(at_step=((1, 2, "hang"),))
    stage_dir, ended = run_ranks(recipe, "finetune", tmp_path, start=home / "start", num_ranks=2, fault=fault)
    assert sorted(ended.codes) in ([1, 1], [-9, 1])

    hung, waiting = read_report(stage_dir, 1), read_report(stage_dir, 0)
    assert hung is not None
    assert waiting is not None
    assert hung.step == waiting.step == 3
    assert hung.collective is None
    assert waiting.collective == "all_reduce"
    assert waiting.num_collectives > hung.num_collectives
    assert waiting.sample_ids
    assert "step" in innermost_calls(hung.stack)[0]  # tests/worker/faults.py sleeps in a function of this name

    watch = RankWatch(stage_dir, num_ranks=2, stall_timeout=STALL_SECONDS)
    failure = explain_failure(stage_dir, exit_code=1, ranks=watch)
    assert failure.error.exit_code == 1
    assert failure.error.message.startswith(
        "finetune: nothing has moved for 6 s (launch.stall_timeout); rank 1 is held up: step 3, counting the step's"
    )
    assert "rank 0: step 3, micro-batch" in failure.error.message
    saved = stage_dir.latest_checkpoint()
    assert saved is not None
    assert saved.name == "step-00000002"
