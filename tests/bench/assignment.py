"""Solvers of the assignment, over distinct, real and flat visual tokens, at the sizes of CLIP-L/336 and SigLIP-384.

`python -m tests.bench.assignment [--tower DIR] [--pictures DIR]`; without them the tower is nano's, with positions
interpolated, and the pictures are drawn scenes. On a GPU solvers that run there are timed with all images at once.
A solver is exact where its total cost is scipy's within 1e-6.
"""

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPVisionModel

from croc_cli.demo.dataset import SceneDataset
from croc_cli.model.matching import assign, pairwise_cost
from croc_cli.model.token_pool import initialise_pool
from croc_cli.recipe.facts import builtin_folder

SIZES = ((24, 432), (27, 547))
"""Patches along a side, and masked tokens: CLIP-L/14-336 and SigLIP-so400m/14-384 at a mask ratio of 0.75."""
POOL, DIM, IMAGES = 2048, 1024, 4
EXACT = 1e-6
Costs = list[npt.NDArray[np.float32]]
Solver = Callable[[Costs], list[npt.NDArray[np.int64]]]


def main(arguments: Sequence[str] = ()) -> None:
    """Print a row for each size, kind of tokens and solver."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tower", type=Path, help="folder of a CLIP vision tower; default: nano's")
    parser.add_argument("--pictures", type=Path, help="folder of pictures; default: drawn scenes")
    given = parser.parse_args(list(arguments))
    torch.manual_seed(0)
    tower = CLIPVisionModel.from_pretrained(given.tower or builtin_folder("builtin:nano", "vision_tower")).eval()
    pictures = list(_pictures(given.pictures))
    what = f"{'CLIP' if given.tower else 'nano'} tokens of {'pictures' if given.pictures else 'scenes'}"
    print(f"{'tokens':24} {'m':>4} {'N':>5} {'solver':>24} {'ms/image':>9} {'largest':>8} {'cost':>9}")
    for side, num_masked in SIZES:
        kinds = {
            "distinct": torch.randn(IMAGES + 8, side * side, DIM),
            what: _tokens(tower, pictures, side),
            "one colour each": _tokens(tower, _flat(IMAGES + 8), side),
        }
        for kind, tokens in kinds.items():
            _measure(kind, _costs(tokens, num_masked))


def _measure(kind: str, costs: Costs) -> None:
    best = [float(cost[np.arange(len(cost)), assign(cost)].sum()) for cost in costs]
    for name, (solver, batch) in _solvers().items():
        solver(costs[:1])  # compiles, and starts threads
        seconds = []
        found: list[npt.NDArray[np.int64]] = []
        for first in range(0, len(costs), batch):
            started = time.perf_counter()
            found += solver(costs[first : first + batch])
            seconds.append((time.perf_counter() - started) / len(costs[first : first + batch]))
        totals = [float(cost[np.arange(len(cost)), chosen].sum()) for cost, chosen in zip(costs, found, strict=True)]
        worst = max(total / least - 1 for total, least in zip(totals, best, strict=True))
        exact = "exact" if worst < EXACT else f"+{worst:.1e}"
        mean, most = 1000 * float(np.mean(seconds)), 1000 * max(seconds)
        print(f"{kind:24} {len(costs[0]):4} {POOL:5} {name:>24} {mean:9.1f} {most:8.1f} {exact:>9}", flush=True)


def _solvers() -> dict[str, tuple[Solver, int]]:
    """Return the solvers of this machine, and the images that each takes at once."""
    solvers: dict[str, tuple[Solver, int]] = {
        "scipy": (lambda costs: [assign(cost) for cost in costs], 1),
        "scipy, float64": (lambda costs: [assign(cost.astype(np.float64)) for cost in costs], 1),
    }
    if importlib.util.find_spec("lap") is not None:
        import lap

        solvers["lap.lapjv"] = (lambda costs: [lap.lapjv(cost, extend_cost=True)[1] for cost in costs], 1)
    if torch.cuda.is_available() and importlib.util.find_spec("torch_linear_assignment") is not None:
        from torch_linear_assignment import batch_linear_assignment

        def on_gpu(costs: Costs) -> list[npt.NDArray[np.int64]]:
            stacked = torch.from_numpy(np.stack(costs)).cuda()
            return list(batch_linear_assignment(stacked).cpu().numpy())

        for count in (4, 8, 16):
            solvers[f"torch-linear-assign. × {count}"] = (on_gpu, count)
    return solvers


def _costs(tokens: Tensor, num_masked: int) -> Costs:
    """Return the costs of the first images, against a pool sampled from the others' tokens."""
    pool = torch.zeros(POOL, tokens.shape[-1])
    initialise_pool(pool, tokens[IMAGES:].flatten(0, 1), "sampled", torch.Generator().manual_seed(0))
    masked = [image[torch.randperm(len(image))[:num_masked]] for image in tokens[:IMAGES]]
    return [pairwise_cost(image, pool).numpy() for image in masked]


@torch.no_grad()
def _tokens(tower: CLIPVisionModel, pictures: Sequence[Image.Image], side: int) -> Tensor:
    """Return [I, side², DIM], the tower's tokens through a random projector of LLaVA's form."""
    pixels = side * tower.config.patch_size
    mean, std = torch.tensor([[0.481, 0.458, 0.408], [0.269, 0.261, 0.276]])[..., None, None]  # CLIP's
    arrays = [np.asarray(picture.convert("RGB").resize((pixels, pixels)), dtype=np.float32) for picture in pictures]
    values = torch.stack([(torch.from_numpy(array).permute(2, 0, 1) / 255 - mean) / std for array in arrays])
    states = tower(values, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states[-2][:, 1:]
    torch.manual_seed(1)
    projector = nn.Sequential(nn.Linear(states.shape[-1], DIM), nn.GELU(), nn.Linear(DIM, DIM))
    projected: Tensor = projector(states)
    return projected


def _pictures(folder: Path | None) -> Iterator[Image.Image]:
    if folder is None:
        scenes = SceneDataset("detailed_captions", num_samples=IMAGES + 8, seed=0, split="train")
        for index in range(IMAGES + 8):
            yield scenes[index].images[0].open()
        return
    for file in sorted(folder.iterdir())[: IMAGES + 8]:
        yield Image.open(file)


def _flat(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (64, 64), (20 * index, 255 - 20 * index, 128)) for index in range(count)]


if __name__ == "__main__":
    main(sys.argv[1:])
