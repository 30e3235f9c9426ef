"""The stage table is the one place that says what sets stages apart."""

import re
from pathlib import Path

from croc_cli.names import STAGES
from croc_cli.recipe.schema import ReconstructStage
from croc_cli.recipe.stages import STAGE_TABLE
from tests.launch.make import recipe

PACKAGE = Path(__file__).parents[2] / "croc_cli"
BESIDE_THE_TABLE = re.compile(
    r"[!=]= \"(?:align|reconstruct|finetune)\"|isinstance\([^)]*ReconstructStage|getattr\((?:\w+\.)?recipe(?:\.data)?, "
)


def test_only_a_stage_with_a_pool_has_the_section_of_one() -> None:
    with_pool = [stage for stage in STAGES if recipe().pool_stage(stage) is not None]
    assert with_pool == [stage for stage in STAGES if STAGE_TABLE[stage].has_pool] == ["reconstruct"]
    assert isinstance(recipe().stage("reconstruct"), ReconstructStage)


def test_no_file_asks_for_a_stage_by_its_name_beside_the_table() -> None:
    found = [
        f"{file.relative_to(PACKAGE)}:{number}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if BESIDE_THE_TABLE.search(line)
    ]
    assert found == []
