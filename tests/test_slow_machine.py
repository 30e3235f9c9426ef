"""A first run on a slow machine: nano under ZeRO-3 on two ranks, rehearsed, from the assembly to stock transformers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from croc_cli.run_dir import RunDir, read_json

LIMIT_SECONDS = 20
"""`launch.stall_timeout`: the assembly and what rank 0 does alone take longer."""
DELAYS = f"""
import builtins, sys, time
real_import, slowed = builtins.__import__, set()
SLOW = [("croc_cli.worker.start", "assemble"), ("croc_cli.train.universal", "convert")]
def delayed(function):
    def call(*given, **named):
        time.sleep({LIMIT_SECONDS + 10})
        return function(*given, **named)
    return call
def slow_import(*given, **named):
    module = real_import(*given, **named)
    for place in SLOW:
        loaded = sys.modules.get(place[0])
        if place not in slowed and hasattr(loaded, place[1]):
            slowed.add(place)
            setattr(loaded, place[1], delayed(getattr(loaded, place[1])))
    return module
builtins.__import__ = slow_import
"""
"""A sitecustomize.py of every process that croc starts."""
STOCK = """
import sys
from transformers import AutoProcessor, LlavaForConditionalGeneration
model, loaded = LlavaForConditionalGeneration.from_pretrained(sys.argv[1], output_loading_info=True)
assert not loaded["missing_keys"] and not loaded["unexpected_keys"], loaded
AutoProcessor.from_pretrained(sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nano_under_zero_3_on_two_ranks_of_a_slow_machine_goes_from_assembly_to_stock_transformers(
    tmp_path: Path,
) -> None:
    (tmp_path / "delays").mkdir()
    (tmp_path / "delays" / "sitecustomize.py").write_text(DELAYS)
    paths = [str(tmp_path / "delays"), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path), "OMP_NUM_THREADS": "1"}
    settings = {
        "model.projector_initialisation": "torch",
        "launch.preflight": "always",
        "launch.stall_timeout": LIMIT_SECONDS,
        "launch.num_ranks": 2,
    }
    for stage in ("align", "reconstruct", "finetune"):
        settings |= {
            f"{stage}.{key}": value
            for key, value in {
                "zero_stage": 3,
                "max_steps": 3,
                "batch.global_size": 8,
                "batch.micro_size": 2,
            }.items()
        }
    flags = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    croc = [sys.executable, "-m", "croc_cli"]
    run_dir = RunDir(tmp_path / "run")
    command = [*croc, "run", "nano", "--until", "finetune", "--run-dir", str(run_dir.root), *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr
    for stage in ("align", "reconstruct", "finetune"):
        assert f"preflight of {stage}: passed in" in done.stderr
        assert read_json(run_dir.stage(stage).summary_file)["steps"] == 3
    assert done.stderr.count("assembled the model") == 1  # a rehearsal's is kept for the stage
    checkpoint = run_dir.stage("finetune").latest_checkpoint()
    assert checkpoint is not None
    index = json.loads((run_dir.init / "config.json").read_text())
    assert index["model_type"] == "llava"
    subprocess.run([sys.executable, "-c", STOCK, str(checkpoint)], check=True, timeout=300)
    original = tmp_path / "original"
    for arguments in (["--to", "llava", str(checkpoint), str(original)], [str(original), str(tmp_path / "stock")]):
        converted = subprocess.run(
            [*croc, "convert", *arguments], capture_output=True, text=True, timeout=300, check=False
        )
        assert converted.returncode == 0, converted.stderr
    subprocess.run([sys.executable, "-c", STOCK, str(tmp_path / "stock")], check=True, timeout=300)
