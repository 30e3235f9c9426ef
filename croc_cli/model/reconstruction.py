"""Reconstruction heads: what may stand between the LLM's hidden states and the visual tokens they should predict.

Letters: I images, n visual tokens of an image, D hidden size.
"""

import torch
from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

INIT_STD = 0.02
"""Spread of new weights, as Llama and BERT start theirs."""

HEAD_WIDTH = 64
"""Dimensions of an attention head, as in the released code."""


class LinearHead(nn.Module):
    """One linear layer.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.resize = nn.Linear(dim, dim)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [I, n, D] hidden states to [I, n, D] predicted visual tokens."""
        predicted: Tensor = self.resize(hidden)
        return predicted


class BertHead(nn.Module):
    """Learned positions, one BERT layer over an image's tokens, one linear layer: the released code's head.

    Args:
        dim: D.
        num_visual: n.
        dropout: Share of activations dropped in training, in the attention and after it.
    """

    def __init__(self, dim: int, num_visual: int, dropout: float) -> None:
        super().__init__()
        config = BertConfig(
            hidden_size=dim,
            intermediate_size=4 * dim,
            num_attention_heads=_num_heads(dim),
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            attn_implementation="sdpa",
        )
        self.position_embeddings = nn.Embedding(num_visual, dim)
        self.layer = BertLayer(config)
        self.resize = nn.Linear(dim, dim)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [I, n, D] hidden states to [I, n, D] predicted visual tokens."""
        positions = torch.arange(hidden.shape[1], device=hidden.device)
        predicted: Tensor = self.resize(self.layer(hidden + self.position_embeddings(positions)))
        return predicted


def build_head(
    kind: str, dim: int, num_visual: int, dropout: float, *, generator: torch.Generator | None = None
) -> nn.Module | None:
    """Make the reconstruction head of stage 1.5.

    Args:
        kind: `none` (the paper: hidden states predict tokens directly), `linear` or `bert` (the released code).
        dim: D, the LLM's hidden size.
        num_visual: n.
        dropout: Share of activations dropped in training, for `bert`.
        generator: A CPU generator, from which the weights are drawn.

    Returns:
        A module from [I, n, D] to [I, n, D], or None for `none`.

    Raises:
        ValueError: Unknown `kind`.
    """
    if kind == "none":
        return None
    if kind not in ("linear", "bert"):
        raise ValueError(f"head is {kind!r}, expected none, linear or bert")
    head = LinearHead(dim) if kind == "linear" else BertHead(dim, num_visual, dropout)
    for module in head.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=INIT_STD, generator=generator)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    return head


def _num_heads(dim: int) -> int:
    """Return the released code's dim // 64 heads, or the next smaller number that divides `dim`."""
    heads = max(1, dim // HEAD_WIDTH)
    while dim % heads:
        heads -= 1
    return heads
