import json
from pathlib import Path
from typing import Any

import pytest

from croc_cli.recipe.facts import TowerFacts, model_facts
from croc_cli.recipe.schema import ModelRecipe


def folder_with(path: Path, config: dict[str, Any] | str) -> str:
    path.mkdir(parents=True)
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return str(path)


@pytest.fixture(autouse=True)
def _empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def test_the_papers_parts_are_known_without_any_file() -> None:
    facts = model_facts(ModelRecipe(vision_tower="openai/clip-vit-large-patch14-336", llm="lmsys/vicuna-7b-v1.5"))
    assert facts.tower == TowerFacts(336, 14, 1024, 24, 4096)
    assert facts.num_visual_tokens == 576
    assert facts.llm is not None
    assert (facts.llm.hidden_size, facts.llm.max_positions, facts.llm.tied_embeddings) == (4096, 4096, False)


def test_a_folders_config_is_read(tmp_path: Path) -> None:
    tower = folder_with(
        tmp_path / "tower", {"model_type": "clip", "vision_config": {"image_size": 56, "patch_size": 14}}
    )
    llm = folder_with(
        tmp_path / "llm", {"model_type": "qwen2", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    )
    facts = model_facts(ModelRecipe(vision_tower=tower, llm=llm))
    assert facts.num_visual_tokens == 16
    assert facts.tower is not None
    assert facts.tower.hidden_size == 768  # CLIP's own default
    assert facts.llm is not None
    assert (facts.llm.head_size, facts.llm.num_kv_heads, facts.llm.attention_bias) == (16, 2, True)
    assert (facts.llm.max_positions, facts.llm.vocab_size) == (None, None)


def test_the_hubs_cache_on_this_machine_is_read(tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "models--some--llm"
    folder_with(cached / "snapshots" / "abc", {"model_type": "llama", "max_position_embeddings": 77})
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    for revision in (None, "abc"):
        llm = model_facts(ModelRecipe(vision_tower="-", llm="some/llm", llm_revision=revision)).llm
        assert llm is not None
        assert llm.max_positions == 77


@pytest.mark.parametrize("config", ["{", "[]", '{"model_type": "dinov2"}', '{"image_size": [1, 2]}'])
def test_a_tower_that_cannot_be_told_from_its_config_is_unknown(tmp_path: Path, config: str) -> None:
    tower = folder_with(tmp_path / "tower", config)
    assert model_facts(ModelRecipe(vision_tower=tower, llm="some/llm")).tower is None


def test_what_is_not_at_hand_is_unknown() -> None:
    facts = model_facts(ModelRecipe(vision_tower="some/tower", llm="builtin:giga"))
    assert (facts.tower, facts.llm, facts.num_visual_tokens) == (None, None, None)


def test_the_nano_tower_ships_with_the_package() -> None:
    tower = model_facts(ModelRecipe(vision_tower="builtin:nano", llm="builtin:nano")).tower
    assert tower is not None
    assert (tower.image_size, tower.patch_size, tower.num_visual_tokens) == (72, 12, 36)
