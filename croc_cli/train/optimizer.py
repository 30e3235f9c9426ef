"""AdamW over named parameter groups, and the learning rate of every step as a function of that step."""

import math
from collections.abc import Container, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from croc_cli.errors import UsageError
from croc_cli.names import HEAD_PREFIX, POOL_PREFIX

TOWER_PREFIX = "model.llava.model.vision_tower."
GROUP_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "vision_tower": (TOWER_PREFIX,),
    "projector": ("model.llava.model.multi_modal_projector.",),
    "llm": ("model.llava.model.language_model.", "model.llava.lm_head."),
    "token_pool": (f"model.{POOL_PREFIX}",),
    "head": (f"model.{HEAD_PREFIX}",),
}
"""Which parameters of a StageModule belong to which group."""


class SkippingAdamW(torch.optim.AdamW):
    """AdamW that clips, and leaves weights and moments alone when a gradient is not finite.

    ZeRO's own optimizers do both on all ranks; this does the same where there is no ZeRO, after the gradients were
    averaged, so that every rank sees the same ones and decides alike.

    Args:
        groups: Parameter groups.
        clip_norm: Largest gradient norm; 0 = no clipping.
        options: What torch's AdamW takes.
    """

    def __init__(self, groups: list[dict[str, Any]], *, clip_norm: float, **options: Any) -> None:
        super().__init__(groups, **options)
        self.clip_norm = clip_norm
        self.overflow = False
        self.group_norms: dict[str, float] = {}  # of the last step; empty where it was skipped
        # The engine reads these two names after a step, as it does of its own optimizers.
        self._global_grad_norm = 0.0

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[no-untyped-def]  # torch overloads it
        """Take a step unless the gradient norm is infinite or not a number."""
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters]) if parameters else torch.zeros(())
        self._global_grad_norm = float(norm)
        self.overflow = not bool(torch.isfinite(norm))
        self.group_norms = {}
        if self.overflow:
            return None
        self.group_norms = self._norms_by_name()
        if self.clip_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        return super().step(closure)

    def _norms_by_name(self) -> dict[str, float]:
        """Return the norm of each group; the halves that weight decay makes of one count together."""
        gradients: dict[str, list[Tensor]] = {}
        for group in self.param_groups:
            found = [p.grad for p in group["params"] if p.grad is not None]
            gradients.setdefault(group.get("name", ""), []).extend(found)
        return {name: float(torch.nn.utils.get_total_norm(found)) for name, found in gradients.items() if found}


def group_of(name: str) -> str | None:
    """Return the parameter group of the StageModule parameter `name`, or None where it belongs to none."""
    for group, prefixes in GROUP_PREFIXES.items():
        if name.startswith(prefixes):
            return group
    return None


def freeze_all_but(module: nn.Module, groups: Iterable[str], *, without: Container[str] = ()) -> None:
    """Let only the parameters of `groups` be trained.

    Args:
        module: A StageModule.
        groups: Names of groups.
        without: Names of parameters of these groups that no loss depends on. They get no gradient, so AdamW would do
            nothing but decay them, and ZeRO would wait for their gradients.
    """
    trained = set(groups)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(group_of(name) in trained and name not in without)


def parameter_groups(
    module: nn.Module, learning_rates: Mapping[str, float], *, weight_decay: float
) -> list[dict[str, Any]]:
    """Return AdamW's groups: each has a `name`, a peak rate, and one of the two halves of weight decay.

    Vectors (norms, biases) are not decayed. With a decay of 0, as in the paper, a group is not split.

    Raises:
        UsageError: Where a group with a learning rate has no parameter.
    """
    members: dict[str, dict[bool, list[Tensor]]] = {}
    for name, parameter in module.named_parameters():
        group = group_of(name)
        if group is None or not parameter.requires_grad:
            continue
        # ZeRO-3 parameters are partitioned: their whole shape is in ds_shape.
        decayed = weight_decay > 0 and len(getattr(parameter, "ds_shape", parameter.shape)) > 1
        members.setdefault(group, {}).setdefault(decayed, []).append(parameter)
    if missing := sorted(set(learning_rates) - set(members)):
        raise UsageError(
            f"learning rate given for {', '.join(missing)}, which this stage does not have",
            hint="set it to 0 in the recipe",
        )
    return [
        {
            "params": parameters,
            "name": group,
            "lr": learning_rates[group],
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for group, halves in members.items()
        for decayed, parameters in halves.items()
    ]


def build_optimizer(
    groups: list[dict[str, Any]],
    *,
    betas: tuple[float, float],
    eps: float,
    offloaded: bool,
    on_gpu: bool,
    clip_norm: float | None,
) -> torch.optim.Optimizer:
    """Return AdamW: DeepSpeed's CPU one where the state is offloaded, torch's fused one on GPUs.

    Args:
        groups: What `parameter_groups` returned.
        betas, eps: AdamW's own.
        offloaded: Whether DeepSpeed keeps the optimizer state in host memory.
        on_gpu: Whether the parameters are on a GPU.
        clip_norm: Largest gradient norm where there is no ZeRO, 0 for no clipping; None under ZeRO, which clips and
            skips steps that are not finite itself.
    """
    if offloaded:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(groups, betas=betas, eps=eps, adamw_mode=True)  # type: ignore[no-any-return]  # untyped
    fused = True if on_gpu else None
    if clip_norm is None:
        return torch.optim.AdamW(groups, betas=betas, eps=eps, fused=fused)
    return SkippingAdamW(groups, clip_norm=clip_norm, betas=betas, eps=eps, fused=fused)


def check_by_norm_alone(optimizer: Any) -> None:
    """Have DeepSpeed's ZeRO-1 or ZeRO-2 optimizer tell a step that is not finite by its gradient norm alone.

    In bf16 it looks through all gradients and waits for the answer before it takes the norm, which is not finite then
    either and which it looks at as well. Where it takes no norm, or the state is offloaded, it is left as it is.
    """
    if getattr(optimizer, "compute_grad_norm", False) and not getattr(optimizer, "cpu_offload", False):
        optimizer.check_overflow = lambda **_: None


class LearningRateSchedule:
    """The learning rates of every step, as `transformers`' schedules have them.

    Nothing is stored: step s has the same rates in an unbroken run and in a resumed one.

    Args:
        kind: `cosine`, `linear` or `constant`; all rise linearly from zero over the warm-up.
        num_steps: Optimizer steps of the stage.
        warmup_ratio: Share of them that warms up, rounded up to whole steps.
    """

    def __init__(self, kind: str, *, num_steps: int, warmup_ratio: float) -> None:
        if kind not in ("cosine", "linear", "constant"):
            raise ValueError(f"schedule is {kind!r}, expected cosine, linear or constant")
        self.kind = kind
        self.num_steps = num_steps
        self.num_warmup_steps = math.ceil(num_steps * warmup_ratio)

    def factor(self, step: int) -> float:
        """Return the share of its peak that a rate has at `step` (from 0)."""
        if step < self.num_warmup_steps:
            return step / self.num_warmup_steps
        progress = (step - self.num_warmup_steps) / max(1, self.num_steps - self.num_warmup_steps)
        if self.kind == "cosine":
            return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
        return max(0.0, 1.0 - progress) if self.kind == "linear" else 1.0

    def set(self, optimizer: torch.optim.Optimizer, peaks: Mapping[str, float], *, step: int) -> dict[str, float]:
        """Give the optimizer's groups the rates of `step` (from 0) and return them by group name."""
        factor = self.factor(step)
        rates = {}
        for group in optimizer.param_groups:
            group["lr"] = rates[group["name"]] = peaks[group["name"]] * factor
        return rates
