"""How strongly each objective alone pulls at the LLM: the balance that α sets, measured."""

from collections.abc import Mapping

import torch
from torch import Tensor

from croc_cli.train.collectives import num_ranks, sum_over_ranks
from croc_cli.train.optimizer import group_of
from croc_cli.train.stage_module import StageModule


def measure_gradient_shares(
    module: StageModule, inputs: Mapping[str, Tensor | None], *, token_weight: Tensor, image_weight: Tensor
) -> dict[str, float]:
    """Return the gradient norms that the caption and the reconstruction objective alone give the LLM.

    Weights (α) are included. It costs two forward and two backward passes of one micro-batch a rank; the norms are
    averaged over ranks. Gradients are taken beside the engine, so nothing is accumulated and no weight changes.

    Args:
        module: The training module; with ZeRO-3 its parameters gather as in any forward pass.
        inputs: One micro-batch, as the module's forward takes it.
        token_weight: What the summed cross-entropy is multiplied by.
        image_weight: What the summed reconstruction loss is multiplied by.
    """
    parameters = [p for name, p in module.named_parameters() if group_of(name) == "llm" and p.requires_grad]
    norms = []
    for objective in ("caption", "reconstruction"):
        # A forward pass each: ZeRO-3 lets go of gathered weights in a backward pass, so no graph serves two.
        _, parts = module(**inputs, token_weight=token_weight, image_weight=image_weight)
        terms = {"caption": parts.caption_sum * token_weight, "reconstruction": parts.reconstruction_sum * image_weight}
        term = terms[objective]
        gradients = torch.autograd.grad(term, parameters, allow_unused=True) if term.requires_grad else ()
        present = [gradient for gradient in gradients if gradient is not None]
        norms.append(torch.nn.utils.get_total_norm(present) if present else term.new_zeros(()))
    caption, reconstruction = (sum_over_ranks(torch.stack(norms).double()) / num_ranks()).tolist()
    return {"caption": caption, "reconstruction": reconstruction}
