"""LoRA adapters are added as PEFT adds them, and what is not plain LoRA is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from croc_cli.checkpoint.formats.lora import merge_lora
from croc_cli.errors import UsageError

LAYER = "model.layers.0.mlp.up_proj"
BASE = {f"{LAYER}.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), "lm_head.weight": torch.zeros(1)}
DOWN, UP = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0], [0.0], [2.0]])


def make_adapter(folder: Path, tensors: dict[str, Tensor] | None = None, **config: Any) -> Path:
    values = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "bias": "none"} | config
    (folder / "adapter_config.json").write_text(json.dumps(values))
    prefix = f"base_model.model.{LAYER}"
    found = {f"{prefix}.lora_A.weight": DOWN, f"{prefix}.lora_B.weight": UP} if tensors is None else tensors
    torch.save(found, folder / "adapter_model.bin")
    return folder


def test_the_product_of_both_matrices_is_added_times_alpha_over_r(tmp_path: Path) -> None:
    merged = merge_lora(BASE, make_adapter(tmp_path))
    assert merged[f"{LAYER}.weight"].tolist() == [[3.0, 0.0], [3.0, 4.0], [9.0, 2.0]]
    assert BASE[f"{LAYER}.weight"][0, 0] == 1.0, "the base stays as it was"


def test_rank_stabilised_lora_divides_by_the_root_of_r(tmp_path: Path) -> None:
    down, up = DOWN.repeat(4, 1), UP.repeat(1, 4)
    names = (f"base_model.model.{LAYER}.lora_A.weight", f"base_model.model.{LAYER}.lora_B.weight")
    adapter = make_adapter(tmp_path, dict(zip(names, (down, up), strict=True)), r=4, use_rslora=True)
    assert merge_lora(BASE, adapter)[f"{LAYER}.weight"][0].tolist() == [5.0, -2.0]  # 1 + 2/√4 · 4, 2 − 4


def test_what_was_trained_beside_it_replaces_the_base(tmp_path: Path) -> None:
    torch.save({"base_model.model.lm_head.weight": torch.ones(1)}, tmp_path / "non_lora_trainables.bin")
    assert merge_lora(BASE, make_adapter(tmp_path))["lm_head.weight"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("config", "named"),
    [({"peft_type": "IA3"}, "IA3"), ({"use_dora": True}, "use_dora True"), ({"bias": "all"}, "bias 'all'")],
)
def test_what_is_not_plain_lora_is_refused(config: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"only plain LoRA is read, not .*{named}") as caught:
        merge_lora(BASE, make_adapter(tmp_path, **config))
    assert "merge_and_unload" in str(caught.value.hint)


def test_another_base_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no model\.layers\.0\.mlp\.up_proj\.weight in the base") as caught:
        merge_lora({}, make_adapter(tmp_path))
    assert "--base names another model" in str(caught.value.hint)
    with pytest.raises(UsageError, match=r"up_proj adds 3 × 2, and in the base it is \(2, 2\)"):
        merge_lora({f"{LAYER}.weight": torch.zeros(2, 2)}, make_adapter(tmp_path))
