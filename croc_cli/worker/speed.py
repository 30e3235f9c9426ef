"""Measures how fast this machine trains: `python -m croc_cli.worker.speed`, cases as JSON on stdin, seconds on stdout.

The layers are the recipe's by their sizes, with random weights; nothing is read but the cases.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

_STARTED = time.perf_counter()

import torch  # noqa: E402  (the time that imports take is a part of the answer)
import torch.nn.functional as F  # noqa: E402
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM  # noqa: E402

from croc_cli.model.assignment import begin_assignment  # noqa: E402
from croc_cli.model.recompute import enable_recomputation  # noqa: E402

SMALL_LAYERS = 8
"""LLMs and towers of up to so many layers are measured whole where they are narrow too."""
SMALL_WIDTH = 256
LAYERS = (1, 3)
"""Numbers of layers of a large model that are measured; the others follow on a straight line."""
REPEATS = 3
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_NUM_PICTURES = 4
"""Pictures that the tower is given at once at most."""


def seconds_of(work: Callable[[], object], device: str) -> float:
    """Return the seconds of the fastest of a few runs, after one that warms up.

    Where other programs keep the cores busy, what counts is the processor time of this one's threads.
    """
    others = device == "cpu" and os.getloadavg()[0] > len(os.sched_getaffinity(0)) / 2 + torch.get_num_threads()
    times = []
    for _ in range(REPEATS + 1):
        started, used = time.perf_counter(), time.process_time()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        wall, busy = time.perf_counter() - started, time.process_time() - used
        times.append(min(wall, busy / torch.get_num_threads()) if others else wall)
    return min(times[1:])


def over_layers(measure: Callable[[int], float], *, num_layers: int, width: int) -> float:
    """Return the seconds of a model with all its layers, from those of models with a few."""
    if num_layers <= max(LAYERS) or (num_layers <= SMALL_LAYERS and width <= SMALL_WIDTH):
        return measure(num_layers)
    few, more = LAYERS
    low, high = measure(few), measure(more)
    return low + max(0.0, high - low) / (more - few) * (num_layers - few)


def picture_seconds(case: dict[str, Any]) -> float:
    """Return the seconds that the tower takes for a picture: forwards, and backwards too where it is trained."""
    trained = bool(case.get("trains_tower"))
    sizes, device, dtype = case["tower"], case["device"], _DTYPES[case["precision"]]
    count = min(_NUM_PICTURES, case["micro_size"])
    pixels = torch.rand(count, sizes["num_channels"], sizes["image_size"], sizes["image_size"], dtype=dtype).to(device)

    def measure(layers: int) -> float:
        config = CLIPVisionConfig(
            hidden_size=sizes["hidden_size"],
            intermediate_size=sizes["intermediate_size"],
            num_hidden_layers=layers,
            num_attention_heads=max(1, sizes["hidden_size"] // 64),
            image_size=sizes["image_size"],
            patch_size=sizes["patch_size"],
        )
        tower = CLIPVisionModel(config).to(device, dtype).train(trained)
        if trained:
            enable_recomputation(tower, case["checkpointing"])

        def run() -> None:
            states = tower(pixels).last_hidden_state
            if trained:
                states.float().square().mean().backward()

        with torch.set_grad_enabled(trained):
            return seconds_of(run, device)

    seconds: float = over_layers(measure, num_layers=sizes["num_layers"], width=sizes["hidden_size"]) / count
    return seconds


class Step:
    """One micro-batch of a stage on an LLM of some layers.

    Args:
        case: What is measured.
        layers: How many.
    """

    def __init__(self, case: dict[str, Any], layers: int) -> None:
        sizes = case["llm"]
        self.case, self.device, dtype = case, case["device"], _DTYPES[case["precision"]]
        config = LlamaConfig(
            hidden_size=sizes["hidden_size"],
            intermediate_size=sizes["intermediate_size"],
            num_hidden_layers=layers,
            num_attention_heads=sizes["num_heads"],
            num_key_value_heads=sizes["num_kv_heads"] or sizes["num_heads"],
            head_dim=sizes["head_size"],
            vocab_size=sizes["vocab_size"],
            max_position_embeddings=max(case["tokens"], 16),
            tie_word_embeddings=sizes["tied_embeddings"],
            attn_implementation="sdpa",
        )
        self.llm = LlamaForCausalLM(config).to(self.device, dtype).train().requires_grad_(case["trains_llm"])
        enable_recomputation(self.llm, case["checkpointing"])
        self.num_visual = (case["tower"]["image_size"] // case["tower"]["patch_size"]) ** 2
        width = sizes["hidden_size"]
        first = torch.nn.Linear(case["tower"]["hidden_size"], width)
        self.projector = torch.nn.Sequential(first, torch.nn.GELU(), torch.nn.Linear(width, width))
        self.projector.to(self.device, dtype)
        rows, text = case["micro_size"], max(1, case["tokens"] - self.num_visual)
        self.states = torch.rand(rows, self.num_visual, case["tower"]["hidden_size"]).to(self.device, dtype)
        self.ids = torch.randint(sizes["vocab_size"], (rows, text)).to(self.device)
        self.mask = self._mask(rows, self.num_visual + text) if case.get("mixed") else None
        trained = [*self.projector.parameters(), *(p for p in self.llm.parameters() if p.requires_grad)]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5)

    def _mask(self, rows: int, length: int) -> torch.Tensor:
        allowed = torch.ones(length, length, dtype=torch.bool).tril()
        allowed[:, : self.num_visual] = True
        return allowed.expand(rows, 1, length, length).to(self.device)

    def forward_backward(self) -> None:
        """Take one micro-batch through projector, assignment, LLM, loss and backward pass."""
        visual = self.projector(self.states)
        if masked := self.case.get("masked"):
            pool = torch.rand(self.case["pool_size"], visual.shape[-1]).to(visual)
            is_masked = (torch.arange(self.num_visual) < masked).expand(len(visual), -1)
            is_real = torch.ones(len(visual), dtype=torch.bool)
            threads = torch.get_num_threads()
            begin_assignment(visual, pool, is_masked, is_real, method="hungarian", num_threads=threads).result()
        embeddings = torch.cat([visual, self.llm.get_input_embeddings()(self.ids)], dim=1)
        hidden = self.llm.model(inputs_embeds=embeddings, attention_mask=self.mask, use_cache=False).last_hidden_state
        logits = self.llm.lm_head(hidden[:, -self.ids.shape[1] - 1 : -1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), self.ids.flatten())
        if masked:
            loss = loss + (hidden[:, :masked] - visual[:, :masked].detach()).float().square().mean()
        loss.backward()  # type: ignore[no-untyped-call]


def measure_case(case: dict[str, Any]) -> dict[str, float]:
    """Return the seconds of a stage's micro-batch, picture and update."""
    updates: dict[int, float] = {}

    def measure(layers: int) -> float:
        step = Step(case, layers)
        seconds = seconds_of(step.forward_backward, case["device"])
        updates[layers] = seconds_of(step.optimizer.step, case["device"])
        return seconds

    sizes = case["llm"]
    micro = over_layers(measure, num_layers=sizes["num_layers"], width=sizes["hidden_size"])
    update = over_layers(updates.__getitem__, num_layers=sizes["num_layers"], width=sizes["hidden_size"])
    return {"micro_seconds": micro, "picture_seconds": picture_seconds(case), "update_seconds": update}


def measure(cases: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Return what each case takes, and how long a launch takes to its first step."""
    import deepspeed  # noqa: F401  (as every rank does)

    imported = min(time.perf_counter() - _STARTED, 2 * time.process_time())
    torch.manual_seed(0)
    # a launcher and then its ranks import the libraries
    return [measure_case(case) | {"start_seconds": 2 * imported} for case in cases]


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):  # what libraries print is not the answer
        found = measure(json.load(sys.stdin))
    print(json.dumps(found))
