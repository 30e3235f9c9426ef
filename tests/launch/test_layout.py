from pathlib import Path

import pytest

from croc_cli.errors import RecipeError, UsageError
from croc_cli.launch.layout import joined_layout, read_hostfile, resolve_layout
from croc_cli.recipe.schema import LaunchRecipe, SlurmRecipe
from tests.launch.make import TWO_CORES, gpus


def test_auto_is_every_gpu_or_one_process_on_a_cpu() -> None:
    everywhere = LaunchRecipe()
    layout = resolve_layout(everywhere, gpus("2", "3"), fits_cpu=True)
    assert (layout.device, layout.num_ranks, layout.device_ids) == ("cuda", 2, ("2", "3"))
    assert layout.threads_per_rank == 32
    layout = resolve_layout(everywhere, TWO_CORES, fits_cpu=True)
    assert (layout.device, layout.num_ranks, layout.threads_per_rank) == ("cpu", 1, 2)


def test_more_ranks_than_devices_are_refused_with_the_number_that_is_there() -> None:
    with pytest.raises(UsageError, match="needs 4 CUDA devices; this machine has .* 2 × A100") as caught:
        resolve_layout(LaunchRecipe(num_ranks=4), gpus("0", "1"), fits_cpu=True)
    assert caught.value.hint == "--gpus 2 uses what is there"
    with pytest.raises(UsageError, match="num_ranks is 3, but this machine has 2 CPU cores and no CUDA device"):
        resolve_layout(LaunchRecipe(num_ranks=3), TWO_CORES, fits_cpu=True)


def test_a_dry_run_without_gpus_counts_on_the_papers_eight() -> None:
    layout = resolve_layout(LaunchRecipe(device="cuda"), TWO_CORES, fits_cpu=False, planning=True)
    assert (layout.device, layout.num_ranks) == ("cuda", 8)
    with pytest.raises(UsageError, match="needs 1 CUDA device; this machine has 2 CPU cores"):
        resolve_layout(LaunchRecipe(device="cuda", num_ranks=1), TWO_CORES, fits_cpu=False)


def test_a_hostfile_gives_ranks_per_node(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# nodes\nnode-1 slots=8\n\nnode-2 slots=4 # half\n")
    layout = resolve_layout(LaunchRecipe(hostfile=str(file)), TWO_CORES, fits_cpu=False)
    assert (layout.kind, layout.ranks_per_node, layout.num_ranks) == ("hostfile", (8, 4), 12)
    layout = resolve_layout(LaunchRecipe(hostfile=str(file), num_ranks=4), TWO_CORES, fits_cpu=False)
    assert layout.ranks_per_node == (4, 4)
    with pytest.raises(UsageError, match="num_ranks is 8, but node-2 has 4 slots") as caught:
        resolve_layout(LaunchRecipe(hostfile=str(file), num_ranks=8), TWO_CORES, fits_cpu=False)
    assert caught.value.hint == "--gpus 4 fits every host"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("node-1 8\n", "hosts:1 is not of the form"),
        ("a slots=1\na slots=2\n", "hosts:2 names a host twice"),
        ("", "no host"),
    ],
)
def test_a_hostfile_with_a_mistake_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(text)
    with pytest.raises(RecipeError, match=words):
        read_hostfile(file)


def test_a_slurm_job_needs_a_number_of_ranks() -> None:
    job = SlurmRecipe(num_nodes=2)
    layout = resolve_layout(LaunchRecipe(slurm=job, num_ranks=8), TWO_CORES, fits_cpu=False)
    assert (layout.kind, layout.num_ranks, layout.num_nodes) == ("slurm", 16, 2)
    with pytest.raises(RecipeError, match="auto cannot be resolved for a Slurm job"):
        resolve_layout(LaunchRecipe(slurm=job), TWO_CORES, fits_cpu=False)


def test_a_launch_made_by_others_says_itself_how_many_ranks_it_has() -> None:
    environment = {"RANK": "3", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}
    layout = joined_layout(LaunchRecipe(), gpus(*"01234567"), environment)
    assert layout is not None
    assert (layout.num_ranks, layout.device, layout.threads_per_rank) == (16, "cuda", 8)
    assert joined_layout(LaunchRecipe(), TWO_CORES, {}) is None
