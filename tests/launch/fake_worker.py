"""A worker without torch: writes the files that a real one writes, in the way FAKE_WORKER says."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from croc_cli.benchmarks.predictions import shard_file
from croc_cli.benchmarks.registry import benchmarks
from croc_cli.run_dir import StageDir, write_json


def main() -> int:
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    stage_dir = StageDir(Path(arguments["--stage-dir"]))
    behaviour = os.environ.get("FAKE_WORKER", "finish")
    rank = int(os.environ.get("RANK", "0"))
    print(f"rank {rank} prints to its log")
    if behaviour == "environment":
        (stage_dir.root / f"environment-{rank}.json").write_text(json.dumps(dict(os.environ)))
        if rank:
            return 0
    if behaviour == "fail":
        return fail(stage_dir, rank)
    if behaviour == "port" and not (stage_dir.root / "tried").exists():
        (stage_dir.root / "tried").touch()
        return fail(stage_dir, rank, "DistNetworkError: The server socket has failed to listen, name: EADDRINUSE")
    if behaviour == "compiling":
        compile_for_ever(stage_dir)
    if behaviour == "killed":
        os.kill(os.getpid(), 9)
    if behaviour == "silent":
        print("RuntimeError: [enforce fail] No space left on device")
        return 1
    if arguments["--stage"] == "benchmarks":
        return answer_scenes(stage_dir)
    steps = 10_000 if behaviour == "endless" else 3
    for step in range(1, steps + 1):
        with stage_dir.metrics_file.open("a") as file:
            file.write(json.dumps({"step": step, "total_steps": steps, "caption_loss": 2.0 / step}) + "\n")
        if stage_dir.stop_file.exists():
            save(stage_dir, step)
            return 130
        if behaviour == "endless":
            time.sleep(0.05)
    with stage_dir.events_file.open("a") as file:
        file.write(json.dumps({"level": "warning", "message": "a picture did not open"}) + "\n")
    save(stage_dir, steps)
    write_json(stage_dir.summary_file, {"finished": True, "steps": steps, "losses": {"caption_loss": 0.667}})
    return 0


def answer_scenes(stage_dir: StageDir) -> int:
    """Answer every question rightly, but for each fourth."""
    records = benchmarks()["scenes"].read(Path())
    right = (str(record.answer) if number % 4 else "?" for number, record in enumerate(records))
    rows = [{"question_id": r.question_id, "prompt": r.prompt, "text": t} for r, t in zip(records, right, strict=True)]
    stage_dir.predictions.mkdir(exist_ok=True)
    shard_file(stage_dir.predictions, "scenes", 0).write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(stage_dir.summary_file, {"finished": True})
    return 0


def save(stage_dir: StageDir, step: int) -> None:
    checkpoint = stage_dir.checkpoint(step)
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text("{}")
    write_json(checkpoint / "croc.json", {"weights_sha256": f"{stage_dir.name}-{step}"})


def compile_for_ever(stage_dir: StageDir) -> None:
    """Start what a compiler's parent starts, in a group of its own, and wait for it before the first step."""
    compiler = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], process_group=0)
    lost = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    work = {"number": 1, "doing": "compiling an operator", "did": "compiled an operator", "done": 0, "total": None}
    record = {"step": 0, "works": [{**work, "unit": "", "seconds": None, "opaque": True}]}
    write_json(stage_dir.rank_file(0), record)
    (stage_dir.root.parent.parent / "pids").write_text(f"{compiler.pid} {lost.pid}")
    time.sleep(600)


def fail(stage_dir: StageDir, rank: int, message: str = "ValueError: it broke") -> int:
    print("a line of the log")
    write_json(
        stage_dir.failure_file(rank),
        {
            "rank": rank,
            "message": message,
            "hint": None,
            "exit_code": 1,
            "uptime": time.monotonic() + rank,
        },
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
