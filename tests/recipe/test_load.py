import subprocess
import sys
from pathlib import Path

import pytest

from croc_cli.errors import EXIT_USAGE, RecipeError, UsageError
from croc_cli.recipe.issues import InvalidRecipe
from croc_cli.recipe.load import dump_recipe, load_recipe, load_resolved, with_overrides
from tests.recipe.recipes import child, errors_of, write

HEAVY = ("torch", "transformers", "deepspeed", "numpy", "pydantic_settings")


def test_without_a_name_the_papers_recipe_is_loaded() -> None:
    assert load_recipe(environ={}).recipe.name == "croc-7b"


def test_a_child_says_only_what_it_changes(tmp_path: Path) -> None:
    loaded = load_recipe(str(child(tmp_path, "reconstruct: {pool: {size: 7}}")), environ={})
    assert loaded.recipe.reconstruct.pool.size == 7
    assert loaded.recipe.reconstruct.learning_rate.llm == 2e-5


def test_lists_replace_and_null_takes_a_mapping_away(tmp_path: Path) -> None:
    text = """\
    align: {optimizer: {betas: [0.8, 0.9]}}
    reconstruct: {enabled: false}
    data: {reconstruct: null}
    """
    recipe = load_recipe(str(child(tmp_path, text)), environ={}).recipe
    assert recipe.align.optimizer.betas == (0.8, 0.9)
    assert recipe.data.reconstruct is None


def test_a_data_source_of_another_kind_replaces_the_parents(tmp_path: Path) -> None:
    path = child(tmp_path, "data: {align: {kind: llava_json, path: a.json, image_folder: images}}")
    source = load_recipe(str(path), environ={}).recipe.data.align
    assert source.model_dump() == {
        "kind": "llava_json",
        "path": "a.json",
        "image_folder": "images",
        "num_samples": None,
        "held_out": None,
    }


def test_a_recipe_without_a_name_takes_its_files_and_not_its_parents(tmp_path: Path) -> None:
    write(tmp_path, "extends: nano\ndescription: one\nname: one", "one.yaml")
    recipe = load_recipe(str(write(tmp_path, "extends: one.yaml", "my second.yaml")), environ={}).recipe
    assert (recipe.name, recipe.description) == ("my-second", "")


def test_extends_in_a_circle_is_told_with_its_steps(tmp_path: Path) -> None:
    write(tmp_path, "extends: b.yaml", "a.yaml")
    path = write(tmp_path, "name: b\nextends: a.yaml", "b.yaml")
    with pytest.raises(RecipeError, match=r"b\.yaml → .*a\.yaml → .*b\.yaml") as caught:
        load_recipe(str(path), environ={})
    assert "a.yaml:1: extends goes in a circle" in caught.value.message


def test_extends_of_an_unknown_name_gives_line_and_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(write(tmp_path, "name: x\nextends: nanno")), environ={})
    assert caught.value.message.endswith("mine.yaml:2: extends: no recipe named 'nanno'")
    assert caught.value.hint == "did you mean nano?"


def test_extends_must_be_one_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="extends: must be the name or the file of one recipe, not"):
        load_recipe(str(write(tmp_path, "extends: [nano, smol]")), environ={})


def test_file_then_environment_then_flags(tmp_path: Path) -> None:
    path = str(child(tmp_path, "reconstruct: {pool: {size: 1}, mask: {ratio: 0.5}}"))
    environ = {"CROC_RECONSTRUCT__POOL__SIZE": "2", "CROC_RECONSTRUCT__MASK__RATIO": "0.25", "HOME": "/"}
    overrides = with_overrides(
        {"reconstruct.pool.size": (3, "--pool-size"), "reconstruct.matching": (None, "--matching")}
    )
    loaded = load_recipe(path, overrides=overrides, environ=environ)
    assert loaded.recipe.reconstruct.pool.size == 3
    assert loaded.recipe.reconstruct.mask.ratio == 0.25
    assert loaded.origins["reconstruct.pool.size"] == "--pool-size"
    assert loaded.origins["reconstruct.mask.ratio"] == "CROC_RECONSTRUCT__MASK__RATIO"


def test_the_judges_key_and_what_ranks_are_told_are_no_recipe_keys(tmp_path: Path) -> None:
    environ = {"CROC_JUDGE_API_KEY": "sk-secret", "CROC_PARENT": "{}", "CROC_HOLDS_LOCK": "1"}
    loaded = load_recipe(str(child(tmp_path, "reconstruct: {pool: {size: 1}}")), environ=environ)
    assert "sk-secret" not in dump_recipe(loaded.recipe)


def test_every_value_has_an_origin(tmp_path: Path) -> None:
    path = child(tmp_path, "reconstruct:\n  pool:\n    size: 7\n")
    origins = load_recipe(str(path), environ={}).origins
    assert origins["reconstruct.pool.size"].endswith("mine.yaml:4")
    assert origins["reconstruct.batch.micro_size"].endswith("base.yaml:11")
    assert origins["reconstruct.pool.initialisation"] == "default"
    assert origins["name"].endswith("mine.yaml's own name")


def test_shipped_files_are_named_from_their_folder() -> None:
    origins = load_recipe("nano-nearest", environ={}).origins
    assert origins["reconstruct.matching"] == "recipes/nano-nearest.yaml:7"


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("CROC_ALIGN__ZERO_STAGE", "3", {"align": {"zero_stage": 3}}),
        ("CROC_ALIGN__MAX_STEPS", "null", {"align": {"max_steps": None}}),
        ("CROC_ALIGN__ENABLED", "false", {"align": {"enabled": False}}),
        ("CROC_ALIGN__OPTIMIZER__BETAS", "[0.8, 0.9]", {"align": {"optimizer": {"betas": [0.8, 0.9]}}}),
        ("CROC_LAUNCH__NUM_RANKS", "auto", {"launch": {"num_ranks": "auto"}}),
        ("CROC_LAUNCH__SLURM", '{"num_nodes": 2}', {"launch": {"slurm": {"num_nodes": 2}}}),
        ("CROC_MODEL__LLM", "7", {"model": {"llm": "7"}}),
    ],
)
def test_variables_become_values_of_their_keys_type(
    tmp_path: Path, variable: str, text: str, expected: dict[str, dict[str, object]]
) -> None:
    recipe = load_recipe(str(child(tmp_path, "")), environ={variable: text}).recipe.model_dump(mode="json")
    [(section, keys)] = expected.items()
    for key, value in keys.items():
        found = recipe[section][key]
        assert {**found, **value} == found if isinstance(value, dict) else found == value


def test_a_variable_of_a_section_that_names_no_key_is_an_error(tmp_path: Path) -> None:
    environ = {"CROC_RECONSTRUCT__POOL__SISE": "2", "CROC_NAME__X": "2"}
    assert errors_of(child(tmp_path, ""), environ=environ) == [
        "CROC_NAME__X: name.x: unknown key; name holds one value, no keys",
        "CROC_RECONSTRUCT__POOL__SISE: reconstruct.pool.sise: unknown key; did you mean size?",
    ]


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("CROC_SOMETHING_ELSE", "keys are written like CROC_ALIGN__BATCH__MICRO_SIZE"),
        ("CROC_RECONSTRUC__POOL__SIZE", "did you mean CROC_RECONSTRUCT__POOL__SIZE?"),
        ("CROC_RECONSTRUCT_POOL_SIZE", "did you mean CROC_RECONSTRUCT__POOL__SIZE?"),
        ("CROC_", "keys are written like CROC_ALIGN__BATCH__MICRO_SIZE"),
    ],
)
def test_a_variable_of_no_section_is_a_warning_with_the_nearest_key(tmp_path: Path, variable: str, meant: str) -> None:
    loaded = load_recipe(str(child(tmp_path, "")), environ={variable: "2"})
    assert loaded.warnings == (f"{variable} is not a key of a recipe and changes nothing; {meant}",)


def test_a_wrong_variable_is_blamed_by_its_name(tmp_path: Path) -> None:
    environ = {"CROC_RECONSTRUCT__POOL__SIZE": "many", "CROC_ALIGN__OPTIMIZER__BETAS": "0.9,0.98"}
    assert errors_of(child(tmp_path, ""), environ=environ) == [
        "CROC_ALIGN__OPTIMIZER__BETAS: align.optimizer.betas: must be written as JSON, such as [0.9, 0.98],"
        " not '0.9,0.98'",
        "CROC_RECONSTRUCT__POOL__SIZE: reconstruct.pool.size: must be a whole number above 0, not 'many'",
    ]


def test_a_wrong_flag_is_blamed_by_its_name(tmp_path: Path) -> None:
    overrides = {"reconstruct.pool.size": (0, "--pool-size")}
    assert errors_of(child(tmp_path, ""), overrides=overrides) == [
        "--pool-size: reconstruct.pool.size: must be a whole number above 0, not 0"
    ]


def test_set_takes_text_for_any_key(tmp_path: Path) -> None:
    overrides = with_overrides({}, ["reconstruct.pool.size=9", "align.max_steps = null"])
    loaded = load_recipe(str(child(tmp_path, "align: {max_steps: 3}")), overrides=overrides, environ={})
    assert loaded.recipe.reconstruct.pool.size == 9
    assert loaded.recipe.align.max_steps is None
    assert loaded.origins["reconstruct.pool.size"] == "--set"


def test_set_without_an_equals_sign_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="must be key=value"):
        with_overrides({}, ["reconstruct.pool.size"])


def test_all_errors_come_at_once_and_in_the_order_of_the_lines(tmp_path: Path) -> None:
    text = """\
    align:
      batch: {global_size: 9}
      learning_rat: {projector: 1}
    reconstruct:
      pool: {size: true}
      max_length: 99999
    """
    path = child(tmp_path, text)
    assert errors_of(path) == [
        "mine.yaml:3: align.batch.global_size: 9 is not a multiple of micro_size 4; the next that fits is 8 or 12,"
        " or micro_size 3",
        "mine.yaml:4: align.learning_rat: unknown key; did you mean learning_rate?",
        "mine.yaml:6: reconstruct.pool.size: must be a whole number above 0, not true",
        "mine.yaml:7: reconstruct.max_length: 99999 is more than the 8192 positions of"
        " HuggingFaceTB/SmolLM2-135M-Instruct; at most 8192 fits",
    ]
    with pytest.raises(InvalidRecipe) as caught:
        load_recipe(str(path), environ={})
    assert caught.value.exit_code == EXIT_USAGE
    assert caught.value.message.splitlines()[0] == f"{path} has 4 errors"
    assert len(caught.value.message.splitlines()) == 5


def test_a_single_error_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        load_recipe(str(child(tmp_path, "chatt: {}")), environ={})
    assert caught.value.message.endswith("mine.yaml:2: chatt: unknown key; did you mean chat?")
    assert "\n" not in caught.value.message


def test_no_cross_check_speaks_about_a_value_that_is_wrong_in_itself(tmp_path: Path) -> None:
    assert errors_of(child(tmp_path, "align: {batch: {global_size: many}}")) == [
        "mine.yaml:2: align.batch.global_size: must be a whole number above 0, not 'many'"
    ]


def test_a_cross_check_blames_the_value_that_was_set_last(tmp_path: Path) -> None:
    assert errors_of(child(tmp_path, "align:\n  batch:\n    micro_size: 3")) == [
        "mine.yaml:4: align.batch.global_size: 8 is not a multiple of micro_size 3; the next that fits is 6 or 9,"
        " or micro_size 2"
    ]


def test_a_resolved_recipe_reads_back_as_it_was(tmp_path: Path) -> None:
    recipe = load_recipe("released-code-7b", overrides={"description": ("1e-3", "--x")}, environ={}).recipe
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_resolved(path).model_dump() == recipe.model_dump()  # only how it was named differs


def test_a_broken_resolved_recipe_names_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(load_recipe("nano", environ={}).recipe).replace("warmup_ratio", "warm_up_ratio", 1))
    with pytest.raises(InvalidRecipe, match=r"recipe\.yaml:\d+: align\.optimizer\.warm_up_ratio: unknown key; did you"):
        load_resolved(path)


def test_loading_a_recipe_imports_nothing_heavy() -> None:
    code = f"""
import sys
from croc_cli.recipe import load, parameters, show
load.load_recipe("nano", environ={{}})
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_deepspeed_key_is_set_as_text_with_its_own_type() -> None:
    key = "align.deepspeed.zero_optimization.reduce_bucket_size"
    made = load_recipe("croc-7b", overrides={key: ("5e7", "--set"), "align.deepspeed.dump_state": ("true", "--set")})
    assert made.recipe.align.deepspeed == {"zero_optimization": {"reduce_bucket_size": 5e7}, "dump_state": True}


@pytest.mark.parametrize(("given", "kept"), [("5%", "5%"), ("0.5%", "0.5%"), ("7", 7)])
def test_bad_images_are_limited_by_number_or_by_share(given: str, kept: object) -> None:
    made = load_recipe("nano", overrides={"data.max_bad_images": (given, "--set")}).recipe
    assert made.data.max_bad_images == kept


@pytest.mark.parametrize("given", ["101%", "-1", "some", "0.5", "5 %"])
def test_another_limit_of_bad_images_is_refused_with_examples(given: str) -> None:
    with pytest.raises(RecipeError, match="must be a number of images such as 100, or a share of them such as 5%, not"):
        load_recipe("nano", overrides={"data.max_bad_images": (given, "--set")})
