"""Mixes: making one of 1.5 million rows, opening it, random rows; loading pictures; checking them. Ratios to bare work.

Rows have 1.2 KB. Pictures are JPEGs of 336 × 336 pixels, and of 500 × 375, which the loader pads and bare PIL does not.
Each part runs in a process of its own, so that its memory is its own. `python -m tests.bench.mixes ROWS` takes fewer.
"""

import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 1_500_000
PICTURES = 1500
COPIES = 4
SIZES = ((336, 336), (500, 375))
RANDOM_ROWS = 200_000
_WORDS = (
    "a quiet",
    "harbour",
    "at dusk",
    "with boats",
    "that lie",
    "on still",
    "water while",
    "lamps are lit",
    "along",
)


def main() -> None:
    """Print one line a figure, each beside its baseline."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else ROWS
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        _write_rows(folder / "rows.jsonl", rows)
        size = (folder / "rows.jsonl").stat().st_size
        print(f"{rows:,} rows of {size / rows:.0f} bytes", flush=True)
        bare = _apart(_parse_all, folder)
        mixed = _apart(_mix, folder)
        print(
            f"mix          {rows / mixed['seconds']:,.0f} rows/s, {mixed['peak'] / 1e6:.0f} MB; parsing alone"
            f" {rows / bare['seconds']:,.0f} rows/s",
            flush=True,
        )
        opened = _apart(_open, folder)
        print(
            f"open         {1000 * opened['open']:.1f} ms, first row after {1000 * opened['first']:.1f} ms,"
            f" {opened['memory'] / 1e6:.0f} MB for mix, sampler and {RANDOM_ROWS:,} random rows"
            f" (a process with numpy alone: {opened['before'] / 1e6:.0f} MB)"
        )
        print(
            f"random rows  {opened['rate']:,.0f} samples/s; bare pread and json.loads {opened['bare']:,.0f}/s",
            flush=True,
        )
        for size in SIZES:
            shutil.rmtree(folder / "pictures", ignore_errors=True)
            _write_pictures(folder / "pictures", size)
            figures = _apart(_load, folder)
            _line(f"loader {size[0]} × {size[1]}", figures, "pictures/s on two processes, bare PIL", inverse=False)
        figures = _apart(_verify, folder)
        _line("verify --deep", figures, "s, bare decoding", inverse=True)
        print(f"again: {figures['again']:.2f} s", flush=True)


def _line(name: str, figures: dict[str, float], what: str, *, inverse: bool) -> None:
    ratio = figures["ours"] / figures["bare"]
    digits = 2 if inverse else 0
    print(
        f"{name:18} {figures['ours']:,.{digits}f} {what} {figures['bare']:,.{digits}f}: {ratio:.2f} of it", flush=True
    )


def _apart(work: Callable[[Path], dict[str, float]], folder: Path) -> dict[str, float]:
    """Run a part in a process of its own, and return its figures and its peak memory in bytes."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(work, folder, sender))
    process.start()
    sender.close()
    figures: dict[str, float] = receiver.recv()
    process.join()
    return figures


def _work(work: Callable[[Path], dict[str, float]], folder: Path, sender: Any) -> None:
    figures = work(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sender.send({**figures, "peak": float(peak)})


def _write_rows(path: Path, count: int) -> None:
    chosen = random.Random(0)
    texts = [" ".join(chosen.choices(_WORDS, k=112)) for _ in range(1000)]
    with path.open("w") as file:
        for number in range(count):
            turns = [
                {"from": "human", "value": "<image>\nWhat is this?"},
                {"from": "gpt", "value": f"{number} {texts[number % 1000]}"},
            ]
            row = {"id": str(number), "image": f"coco/train2017/{number:012d}.jpg", "conversations": turns}
            file.write(json.dumps(row) + "\n")


def _parse_all(folder: Path) -> dict[str, float]:
    started = time.perf_counter()
    with (folder / "rows.jsonl").open("rb") as file:
        for line in file:
            json.loads(line)
    return {"seconds": time.perf_counter() - started}


def _mix(folder: Path) -> dict[str, float]:
    from croc_cli.sources.mix.mix import build_mix
    from croc_cli.sources.read.spec import MixSpec, SourceSpec

    spec = MixSpec("bench", (SourceSpec("rows", folder / "rows.jsonl"),), folder)
    started = time.perf_counter()
    build_mix(spec, folder / "mix")
    return {"seconds": time.perf_counter() - started}


def _open(folder: Path) -> dict[str, float]:
    from croc_cli.data.dataset import MixDataset
    from croc_cli.data.sampler import StepSampler

    before = _memory()
    started = time.perf_counter()
    dataset = MixDataset(folder / "mix")
    opened = time.perf_counter() - started
    dataset[0]
    first = time.perf_counter() - started
    sampler = StepSampler(len(dataset), global_size=128, micro_size=4, rank=0, num_ranks=8, seed=0)
    places = [place for step in range(RANDOM_ROWS // 128) for place in sampler.global_batch(step)]
    for place in places:  # what the disk takes is another matter
        dataset.mix.read(place)
    rates = []
    for read in (dataset.__getitem__, lambda place: json.loads(dataset.mix.read(place))):
        started = time.perf_counter()
        for place in places:
            read(place)
        rates.append(len(places) / (time.perf_counter() - started))
    memory = _memory()
    return {
        "open": opened,
        "first": first,
        "rate": rates[0],
        "bare": rates[1],
        "memory": float(memory - before),
        "before": float(before),
    }


def _memory() -> int:
    """Return this process's memory in bytes, mapped files that it touched included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _write_pictures(folder: Path, size: tuple[int, int]) -> None:
    from PIL import Image

    folder.mkdir()
    noise = np.random.default_rng(0)
    rows = []
    for number in range(PICTURES):
        coarse = noise.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=92)
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": f"Number {number}."}]
        rows.append({"id": str(number), "image": f"{number}.jpg", "conversations": turns})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _load(folder: Path) -> dict[str, float]:
    """Return pictures a second of the loader and of bare PIL, both in two processes, in turns."""
    import torch

    from croc_cli.data.collate import StepLoader, build_data_loader
    from croc_cli.data.conversation import ConversationEncoder
    from croc_cli.data.dataset import LlavaJsonDataset
    from croc_cli.data.image import build_image_processor
    from croc_cli.data.masking import Masking
    from croc_cli.data.sampler import StepSampler
    from tests.tiny import make_tiny_tokenizer

    tokenizer = make_tiny_tokenizer()
    processor = build_image_processor(CLIP, "pad")
    encoder = ConversationEncoder(
        tokenizer, template="vicuna_v1", image_token_id=len(tokenizer), num_visual_tokens=576, max_length=2048
    )
    dataset = LlavaJsonDataset(folder / "pictures" / "rows.jsonl", folder / "pictures")
    sampler = StepSampler(len(dataset), global_size=8, micro_size=8, rank=0, num_ranks=1, seed=0)
    steps = StepLoader(
        dataset, encoder, processor, sampler, masking=Masking(0.75), num_visual_tokens=576, pad_token_id=0, seed=0
    )
    bare = torch.utils.data.DataLoader(
        Bare(sorted((folder / "pictures").glob("*.jpg"))), batch_size=8, num_workers=2, prefetch_factor=2
    )
    best = {"ours": 0.0, "bare": 0.0}
    for _ in range(3):
        for name, loader in (("bare", bare), ("ours", build_data_loader(steps, num_workers=2))):
            iterator = iter(loader)
            for _ in range(10):  # until both processes run
                next(iterator)
            started, count = time.perf_counter(), 0
            for _ in iterator:
                count += 8
            best[name] = max(best[name], count / (time.perf_counter() - started))
    return best


CLIP = {
    "size": {"shortest_edge": 336},
    "crop_size": {"height": 336, "width": 336},
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


class Bare:
    """PIL decodes, pads nothing, resizes to 336 × 336; numpy normalises."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.mean = np.array(CLIP["image_mean"], dtype=np.float32)
        self.std = np.array(CLIP["image_std"], dtype=np.float32)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        image = Image.open(self.files[index]).convert("RGB").resize((336, 336), Image.Resampling.BICUBIC)
        pixels = (np.asarray(image, dtype=np.float32) / 255 - self.mean) / self.std
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _verify(folder: Path) -> dict[str, float]:
    from croc_cli.sources.verify.verify import verify_mix

    files = sorted((folder / "pictures").glob("*.jpg"))
    _decode(files)
    rows = (folder / "pictures" / "rows.jsonl").read_text()
    for copy in range(
        1, COPIES
    ):  # other names of the same files, so that the start of the process that decodes is spread
        for file in files:
            os.link(file, file.with_name(f"{copy}-{file.name}"))
    lines = [rows.replace('"image": "', f'"image": "{copy}-') if copy else rows for copy in range(COPIES)]
    (folder / "pictures" / "rows.jsonl").write_text("".join(lines))
    files = sorted((folder / "pictures").glob("*.jpg"))
    started = time.perf_counter()
    _decode(files)
    bare = time.perf_counter() - started
    times = []
    for _ in range(2):
        started = time.perf_counter()
        verify_mix(folder / "pictures" / "rows.jsonl", deep=True, workers=1)
        times.append(time.perf_counter() - started)
    return {"bare": bare, "ours": times[0], "again": times[1]}


def _decode(files: list[Path]) -> None:
    from PIL import Image

    for file in files:
        with Image.open(file) as image:
            image.load()


if __name__ == "__main__":
    main()
