"""The multimodal model in training: stock LLaVA, with what stage 1.5 puts between its parts.

Letters: B rows, T tokens of a row, I images, n visual tokens of an image, m masked ones, K trained tokens,
V vocabulary size, D the LLM's hidden size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from croc_cli.data.packing import Packing
from croc_cli.data.places import Places, find_places
from croc_cli.model.assignment import PendingAssignment
from croc_cli.model.attention_mask import build_attention_mask
from croc_cli.model.token_pool import TokenPool
from croc_cli.names import FLASH_PACKAGES, HEAD_PREFIX, IGNORE_INDEX, POOL_PREFIX


class MultimodalOutput(NamedTuple):
    """What the objectives and the metrics need of one forward pass; a tuple, so that ZeRO-3 finds the tensors in it.

    Args:
        logits: [K, V], only where a label needs them; one row where none does, so that the LM head always runs.
        labels: [K] int64, the token that each row of `logits` is to predict; -100 for the row that stands in for none.
        visual_hidden: [I, n, D], hidden states at visual positions, through the head where there is one.
        visual_targets: [I, n, D], visual tokens before any was replaced.
        masked: [I, n] bool, where tokens were replaced; None without a pool.
        assignment: [I, m] int64 on the CPU, pool tokens of masked positions, -1 for blanks; None without a pool.
        assignment_cost_sum: Sum over real images of the mean distance between masked tokens and their pool tokens.
        solver_seconds: Time that the assignment's solver took, added up over images.
        wait_seconds: Time that the host waited for it.
        zero: Scalar 0 that hangs on every module, through hidden states and logits. It belongs into every loss: each
            rank then has a gradient for the same parameters at every step, whatever its micro-batch holds.
    """

    logits: Tensor
    labels: Tensor
    visual_hidden: Tensor
    visual_targets: Tensor
    masked: Tensor | None
    assignment: Tensor | None
    assignment_cost_sum: float
    solver_seconds: float
    wait_seconds: float
    zero: Tensor


class MultimodalModel(nn.Module):
    """Stock LLaVA with a token pool and a reconstruction head (arXiv:2410.14332v3, section 3).

    Every call runs every module, also on a micro-batch without an image, which brings one blank: under ZeRO ranks that
    ran different modules would wait for each other forever. Parameters are touched only inside their own module's
    forward.

    Args:
        llava: The stock model, a `LlavaForConditionalGeneration`.
        num_visual_tokens: n.
        pool: What replaces masked tokens; None where nothing is masked.
        head: From [I, n, D] hidden states to [I, n, D] predicted visual tokens; None for the hidden states themselves.
        matching: `hungarian` or `nearest`, how the pool chooses.
        shares_assignment: Images of one row share an assignment, so that each pool token is used once over them, as in
            ViCToR's code; otherwise each image has its own.
        attention_kind: `causal`, `mixed` or `prefix`, see `croc_cli.model.attention_mask`.
        visual_norm: `none`, or `l2` for visual tokens of unit length, as in the released code.
        reconstruction_layer: Hidden state of the LLM that predicts visual tokens, numbered as transformers does: i is
            what layer i hands on, from 1; negative ones count from the end; -1 is the last, after the norm. VIRAL
            (arXiv:2509.07979) takes one from the middle.
    """

    def __init__(
        self,
        llava: Any,
        *,
        num_visual_tokens: int,
        pool: TokenPool | None = None,
        head: nn.Module | None = None,
        matching: str = "hungarian",
        shares_assignment: bool = False,
        attention_kind: str = "causal",
        visual_norm: str = "none",
        reconstruction_layer: int = -1,
    ) -> None:
        super().__init__()
        if visual_norm not in ("none", "l2"):
            raise ValueError(f"visual_norm is {visual_norm!r}, expected none or l2")
        self.llava = llava
        self.num_visual_tokens = num_visual_tokens
        self.pool = pool
        self.head = head
        self.matching = matching
        self.shares_assignment = shares_assignment
        self.attention_kind = attention_kind
        self.visual_norm = visual_norm
        find_layer(llava.model.language_model, reconstruction_layer)  # complains where there is none
        self.reconstruction_layer = reconstruction_layer

    def training_parts(self) -> dict[str, nn.Module]:
        """Return what is trained beside the LLaVA, by the prefix of its weights' names in a checkpoint."""
        parts = {POOL_PREFIX: self.pool, HEAD_PREFIX: self.head}
        return {prefix: part for prefix, part in parts.items() if part is not None}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        pixel_values: Tensor,
        image_is_real: Tensor,
        image_rows: Tensor,
        masked: Tensor | None = None,
        places: Places | None = None,
        packing: Packing | None = None,
        assignment: PendingAssignment | None = None,
    ) -> MultimodalOutput:
        """Run the model on one micro-batch.

        Args:
            input_ids: [B, T] int64, n image tokens for each image that has a place.
            attention_mask: [B, T] int64, 0 at padding, which is on the right.
            labels: [B, T] int64, -100 where nothing is trained.
            pixel_values: [I, 3, H, W], I ≥ 1; or kept features, see `encode_images`.
            image_is_real: [I] bool, False for blanks.
            image_rows: [I] int64, the row of each image, images of a row in order of appearance; -1 for a blank without
                a place.
            masked: [I, n] bool, visual tokens to replace; None for none.
            places: Where images and trained tokens lie; None finds them here, for which a GPU has to wait.
            packing: Which tokens of a row belong together; None where each sample has a row of its own.
            assignment: What `begin_assignment` returned for this micro-batch and the weights of now; None assigns here,
                for which a GPU has to wait.

        Raises:
            ValueError: Image tokens and images do not match.
        """
        image_token_id, n = self.llava.config.image_token_id, self.num_visual_tokens
        if places is None:
            places = find_places(input_ids, labels, image_rows, image_token_id=image_token_id, num_visual_tokens=n)
        is_visual = input_ids == image_token_id
        visual_targets = self.encode_images(pixel_values)
        tokens, replaced = visual_targets, None
        if self.pool is not None:
            masked = tokens.new_zeros(tokens.shape[:2], dtype=torch.bool) if masked is None else masked
            masked = masked.to(tokens.device)
            sharing = image_rows if self.shares_assignment else None
            replaced = self.pool(
                tokens, masked, image_is_real, matching=self.matching, sharing=sharing, assignment=assignment
            )
            tokens = replaced.tokens

        embeds = self.llava.get_input_embeddings()(input_ids)
        shown = tokens[places.images].flatten(0, 1).to(embeds.dtype)
        embeds = embeds.flatten(0, 1).index_copy(0, places.visual, shown).view_as(embeds)
        hidden, predicting = self._run_llm(embeds, attention_mask, labels, is_visual, packing)
        by_position = hidden.flatten(0, 1)
        logits = self.llava.lm_head(by_position[places.before_labels])
        visual_hidden = self._gather_visual(predicting.flatten(0, 1), places, num_images=len(tokens))
        if self.head is not None:
            visual_hidden = self.head(visual_hidden)
        return MultimodalOutput(
            logits=logits,
            labels=places.labels,
            visual_hidden=visual_hidden,
            visual_targets=visual_targets,
            masked=masked if self.pool is not None else None,
            assignment=replaced.assignment if replaced is not None else None,
            assignment_cost_sum=replaced.cost_sum if replaced is not None else 0.0,
            solver_seconds=replaced.solver_seconds if replaced is not None else 0.0,
            wait_seconds=replaced.wait_seconds if replaced is not None else 0.0,
            zero=torch.stack([(part.float() * 0.0).sum() for part in (visual_hidden, logits[:1])]).sum(),
        )

    @torch.no_grad()
    def begin_assignment(
        self, pixel_values: Tensor, masked: Tensor, image_is_real: Tensor, image_rows: Tensor
    ) -> tuple[Tensor, PendingAssignment]:
        """Project a micro-batch's images and have their pool tokens assigned, ahead of its forward pass.

        Args:
            pixel_values: As `forward` takes them.
            masked: [I, n] bool, on the host.
            image_is_real: [I] bool, on the host.
            image_rows: [I] int64, on the host.

        Returns:
            [I, n, D_v], what entered the projector, which `forward` takes in place of the pixels where the vision tower
            is frozen; and the assignment.
        """
        assert self.pool is not None
        entered: list[Tensor] = []
        projector = self.llava.model.multi_modal_projector
        handle = projector.register_forward_pre_hook(lambda _module, inputs: entered.append(inputs[0]))
        try:
            tokens = self.encode_images(pixel_values)
        finally:
            handle.remove()
        sharing = image_rows if self.shares_assignment else None
        return entered[0], self.pool.begin(tokens, masked, image_is_real, matching=self.matching, sharing=sharing)

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Turn pictures into visual tokens: vision tower, projector and the norm, if any (METHOD: step 1).

        Args:
            pixel_values: [I, 3, H, W]; or [I, n, D_v], what the tower made of the pictures before, which enters the
                projector as it is.

        Returns:
            [I, n, D]. A frozen tower leaves no graph behind: nothing that enters it needs a gradient.
        """
        if pixel_values.dim() == 3:
            tokens: Tensor = self.llava.model.multi_modal_projector(pixel_values.to(self.llava.dtype))
        else:
            features = self.llava.get_image_features(pixel_values.to(self.llava.dtype)).pooler_output
            tokens = torch.stack(list(features))
        if tokens.shape[1] != self.num_visual_tokens:
            raise ValueError(
                f"the vision tower gives {tokens.shape[1]} visual tokens an image, expected {self.num_visual_tokens}"
            )
        return F.normalize(tokens, dim=-1) if self.visual_norm == "l2" else tokens

    def _run_llm(
        self, embeds: Tensor, attention_mask: Tensor, labels: Tensor, is_visual: Tensor, packing: Packing | None
    ) -> tuple[Tensor, Tensor]:
        """Return [B, T, D] last hidden states, and those that predict visual tokens."""
        language_model = self.llava.model.language_model
        has_key = attention_mask.bool()
        # a row of padding alone would have no key at all, which some kernels answer with NaN
        has_key[:, 0] |= ~has_key.any(dim=1)
        mask = build_attention_mask(
            language_model.config,
            embeds,
            has_key,
            kind=self.attention_kind,
            is_visual=is_visual,
            is_label=labels != IGNORE_INDEX,
            position_ids=None if packing is None else packing.position_ids,
        )
        positions = torch.arange(embeds.shape[1], device=embeds.device)[None]
        boundaries: dict[str, Any] = {}
        if packing is not None:
            positions = packing.position_ids
            if language_model.config._attn_implementation in FLASH_PACKAGES:
                boundaries = dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), packing.boundaries)
                boundaries |= dict.fromkeys(("max_length_q", "max_length_k"), packing.longest)
        with _output_of(find_layer(language_model, self.reconstruction_layer)) as seen:
            outputs = language_model(
                inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False, **boundaries
            )
        hidden: Tensor = outputs.last_hidden_state
        return hidden, seen[0] if seen else hidden

    def _gather_visual(self, by_position: Tensor, places: Places, *, num_images: int) -> Tensor:
        """Return [I, n, D] of [B · T, D], hidden states of each image; zeros for an image without a place."""
        found = by_position[places.visual].view(len(places.images), self.num_visual_tokens, by_position.shape[-1])
        return by_position.new_zeros(num_images, *found.shape[1:]).index_copy(0, places.images, found)


def find_layer(language_model: Any, number: int) -> nn.Module | None:
    """Return the layer of an LLM that hands on a hidden state; None for the last one, which leaves the norm.

    Args:
        language_model: The LLM without its head.
        number: As `MultimodalModel` takes it.

    Raises:
        ValueError: The LLM lacks it.
    """
    depth = language_model.config.num_hidden_layers
    if number == 0 or not -depth <= number <= depth:
        raise ValueError(f"{number} is none of the {depth} hidden states of the LLM's layers")
    number %= depth + 1
    return None if number == depth else language_model.layers[number - 1]


@contextmanager
def _output_of(layer: nn.Module | None) -> Iterator[list[Tensor]]:
    """Collect what a layer returns in the block; a recomputed layer is called again only after it."""
    seen: list[Tensor] = []
    if layer is None:
        yield seen
        return
    handle = layer.register_forward_hook(
        lambda _layer, _inputs, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    try:
        yield seen
    finally:
        handle.remove()
