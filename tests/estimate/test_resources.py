import pytest

from croc_cli.errors import UsageError
from croc_cli.estimate.memory import with_changes
from croc_cli.estimate.resources import Hardware, parse_memory, recipe_resources
from croc_cli.estimate.settle import settled
from croc_cli.recipe.load import load_recipe
from croc_cli.recipe.parameters import trained_counts
from croc_cli.recipe.schema import Recipe

A100S = Hardware(num_ranks=8, on_gpu=True, memory_bytes=80 * 10**9, threads=1, utilisation=0.4)


def recipe(name: str = "croc-7b", **keys: object) -> Recipe:
    overrides = {key.replace("__", "."): (value, "test") for key, value in keys.items()}
    return load_recipe(name, overrides=overrides, environ={}).recipe


def test_the_papers_recipe_fits_the_papers_machine_with_its_steps() -> None:
    align, reconstruct, finetune = recipe_resources(recipe(), A100S)
    assert align.fits
    assert reconstruct.fits
    assert finetune.fits
    assert (align.steps, finetune.steps) == (2181, 5198)
    assert not align.samples_are_known
    assert reconstruct.memory[0].total > A100S.usable_bytes > reconstruct.memory[3].total
    assert reconstruct.disk_bytes == 3 * reconstruct.checkpoint_bytes


def test_hours_follow_the_operations_the_ranks_and_the_utilisation() -> None:
    [align, *_] = recipe_resources(recipe(), A100S)
    assert align.hours == pytest.approx(align.flops / (8 * 312e12 * 0.4) / 3600)
    twice = Hardware(16, True, 80 * 10**9, 1, 0.2)
    assert recipe_resources(recipe(), twice)[0].hours == pytest.approx(align.hours)


def test_what_does_not_fit_comes_with_the_first_changes_that_do() -> None:
    small = Hardware(num_ranks=8, on_gpu=True, memory_bytes=40 * 10**9, threads=1, utilisation=0.4)
    finetune = recipe_resources(recipe(finetune__gradient_checkpointing="none"), small)[-1]
    assert not finetune.fits
    assert finetune.changes is not None
    assert finetune.changes[0] == "finetune.gradient_checkpointing=full"
    changed = {change.split("=")[0].replace(".", "__"): change.split("=")[1] for change in finetune.changes}
    values = {key: int(value) if value.isdigit() else value for key, value in changed.items()}
    again = recipe_resources(recipe(**values), small)[-1]
    assert again.fits


def test_no_change_is_named_that_is_not_needed() -> None:
    narrow = Hardware(num_ranks=8, on_gpu=True, memory_bytes=42 * 10**9, threads=1, utilisation=0.4)
    finetune = recipe_resources(recipe(), narrow)[-1]
    assert finetune.changes == ("finetune.batch.micro_size=4",)


def test_more_gpus_are_the_last_resort_and_sometimes_nothing_helps() -> None:
    hopeless = Hardware(num_ranks=1, on_gpu=True, memory_bytes=3 * 10**9, threads=1, utilisation=0.4)
    assert recipe_resources(recipe(), hopeless)[-1].changes is None
    cpu = Hardware(num_ranks=1, on_gpu=False, memory_bytes=10**7, threads=1, utilisation=0.4)
    assert recipe_resources(recipe("nano"), cpu)[-1].changes is None


def test_a_model_of_unknown_sizes_is_named() -> None:
    with pytest.raises(UsageError, match=r"model\.llm: the sizes of some/llm are not known here"):
        recipe_resources(recipe(model__llm="some/llm"), A100S)


def test_features_that_are_kept_take_disk() -> None:
    kept = recipe_resources(recipe(data__cache_features="features", align__max_steps=10), A100S)[0]
    assert kept.feature_bytes == 2560 * 576 * 1024 * 2
    assert with_changes(kept.choices, micro_size=1).micro_size == 1


@pytest.mark.parametrize(("text", "number"), [("80GB", 80 * 10**9), ("24 GiB", 24 * 2**30), ("1000", 1000)])
def test_amounts_of_memory(text: str, number: int) -> None:
    assert parse_memory(text) == number


@pytest.mark.parametrize("text", ["", "80 apples", "-3GB", "GB"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(UsageError, match="no amount of memory"):
        parse_memory(text)


def test_a_trained_tower_takes_a_backward_pass_and_room_in_checkpoints() -> None:
    """Three passes, and a fourth for what is computed again, over 576 patches and the class token."""
    rate = {"reconstruct__learning_rate__vision_tower": 2e-6, "reconstruct__max_steps": 1}
    frozen, trained = (
        next(one for one in recipe_resources(made, A100S) if one.stage == "reconstruct")
        for made in (recipe("croc-7b", reconstruct__max_steps=1), recipe("croc-7b", **rate))
    )
    tower = 303_507_456
    samples = recipe("croc-7b").reconstruct.batch.global_size
    assert trained.flops - frozen.flops == pytest.approx(samples * 3 * 2 * tower * 577, rel=1e-6)
    used = trained_counts(recipe("croc-7b", **rate), "reconstruct", {"vision_tower": tower})["vision_tower"]
    assert trained.checkpoint_bytes - frozen.checkpoint_bytes == 16 * used


def test_packed_rows_are_counted_with_all_the_samples_that_they_hold() -> None:
    plain = recipe_resources(recipe(), A100S)[-1]
    packing = {"batch__packing": True, "batch__row_tokens": 8192, "batch__micro_size": 1}
    packing |= {"gradient_checkpointing": "full"}
    packed = recipe_resources(recipe(**{f"finetune__{key}": value for key, value in packing.items()}), A100S)[-1]
    assert (packed.length, packed.is_packed, plain.is_packed) == (8192, True, False)
    assert packed.tokens == plain.tokens
    # a row of 8,192 tokens is as long as four sequences of 2,048, but holds more images, so it has less text
    four = recipe_resources(recipe(finetune__batch__micro_size=4, finetune__gradient_checkpointing="full"), A100S)[-1]
    assert packed.memory[3].activations == pytest.approx(four.memory[3].activations, rel=0.2)
    assert packed.memory[3].logits < four.memory[3].logits


def test_recomputation_is_chosen_by_the_memory_that_a_rank_has() -> None:
    def chosen(gigabytes: int) -> str:
        hardware = Hardware(num_ranks=8, on_gpu=True, memory_bytes=gigabytes * 10**9, threads=1, utilisation=0.4)
        return settled(recipe(), hardware).finetune.gradient_checkpointing

    found = recipe_resources(recipe(), A100S)[-1]
    sizes = {name: size for name, (size, _) in found.recomputation.items()}
    assert sizes["none"] > sizes["alternate"] > sizes["full"]
    assert [round(cost, 2) for _, cost in found.recomputation.values()] == [1.0, 1.16, 1.33]
    need = {name: round(size / 0.9 / 10**9) + 3 for name, size in sizes.items()}
    assert [chosen(need[name]) for name in ("none", "alternate", "full")] == ["none", "alternate", "full"]
    assert chosen(need["none"] - 6) == "alternate"
    assert found.choices.checkpointing == "full"


def test_a_way_of_recomputation_that_was_named_stays_and_switches_of_earlier_recipes_are_read() -> None:
    named = recipe(finetune__gradient_checkpointing=True, align__gradient_checkpointing=False)
    kept = settled(named, A100S)
    assert (kept.finetune.gradient_checkpointing, kept.align.gradient_checkpointing) == ("full", "none")
    assert kept.reconstruct.gradient_checkpointing == "full"
