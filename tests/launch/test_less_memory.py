"""A run that is out of memory says which setting to turn next, by the recipe that it ran with."""

from pathlib import Path

import pytest
import yaml

from croc_cli.launch.less_memory import less_memory, memory_hint


@pytest.mark.parametrize(
    ("section", "flag"),
    [
        ({"gradient_checkpointing": "none"}, "gradient_checkpointing=alternate"),
        ({"gradient_checkpointing": "alternate"}, "gradient_checkpointing=full"),
        ({"gradient_checkpointing": "full", "batch": {"micro_size": 8}, "zero_stage": 2}, "batch.micro_size=4"),
        ({"gradient_checkpointing": "full", "batch": {"micro_size": 1}, "zero_stage": 2}, "zero_stage=3"),
        ({"gradient_checkpointing": "full", "batch": {"micro_size": 1}, "zero_stage": 3}, "offload=optimizer"),
        ({"zero_stage": 3, "offload": "optimizer"}, "offload=all"),
    ],
)
def test_the_setting_that_costs_least_comes_first(section: dict[str, object], flag: str) -> None:
    assert less_memory("finetune", section) == f"--set finetune.{flag}"


def test_the_recipe_of_the_run_decides(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    assert "lower align.batch.micro_size" in memory_hint("align", file)
    file.write_text(yaml.safe_dump({"align": {"gradient_checkpointing": "none"}}))
    assert "--set align.gradient_checkpointing=alternate takes less" in memory_hint("align", file)
