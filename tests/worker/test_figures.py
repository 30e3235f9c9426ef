import json
from pathlib import Path

import pytest
from PIL import Image

from croc_cli.errors import RunError, UsageError
from croc_cli.run_dir import StageDir, read_json
from croc_cli.worker.attention import run_attention
from croc_cli.worker.figures import run_figures
from tests.tiny import NUM_VISUAL_TOKENS, make_tiny_llava
from tests.worker.harness import make_data, make_recipe, one_rank, prepare, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> StageDir:
    folder = tmp_path_factory.mktemp("figures")
    make_data(folder)
    recipe = make_recipe(folder, reconstruct={"max_steps": 1})
    start = make_tiny_llava(folder / "start")
    stage_dir = train(recipe, "reconstruct", folder / "run", start=start)
    figures = StageDir(folder / "run" / "figures")
    figures.root.mkdir()
    figures.recipe_file.write_text(stage_dir.recipe_file.read_text())
    with one_rank():
        run_figures(figures, start=stage_dir.latest_checkpoint())
    return stage_dir


def figures_of(trained: StageDir) -> StageDir:
    return StageDir(trained.root.parent / "figures")


def test_pictures_have_their_panels_pool_tokens_and_explained_shares(trained: StageDir) -> None:
    folder = figures_of(trained)
    content = read_json(folder.root / "figures.json")
    assert folder.finished()
    assert content["held_out"] is False
    num_masked = round(0.75 * NUM_VISUAL_TOKENS)
    for picture in content["pictures"]:
        assert set(picture["files"]) == {"picture", "masked", "pool", "reconstructed"}
        sizes = {Image.open(folder.root / file).size for file in picture["files"].values()}
        assert len(sizes) == 1
        assert len(picture["masked"]) == len(set(picture["pool_tokens"])) == len(picture["explained"]) == num_masked
        assert all(share <= 1 for share in picture["explained"])
        assert picture["truth"].startswith("noise number")


def test_the_hash_tells_which_checkpoint_the_figures_are_of(trained: StageDir) -> None:
    checkpoint = trained.latest_checkpoint()
    assert checkpoint is not None
    content = read_json(figures_of(trained).root / "figures.json")
    assert content["checkpoint_sha256"] == read_json(checkpoint / "croc.json")["weights_sha256"]


def test_the_mask_of_a_real_sample_lets_all_see_visual_tokens_and_text_what_came_before(trained: StageDir) -> None:
    attention = read_json(figures_of(trained).root / "figures.json")["attention"]
    tokens, rows = attention["tokens"], attention["rows"]
    assert attention["kind"] == "mixed"
    assert tokens.count("v") == NUM_VISUAL_TOKENS
    assert tokens.endswith("a")
    for query, row in enumerate(rows):
        expected = [key <= query or kind == "v" for key, kind in enumerate(tokens)]
        assert row == "".join(str(int(one)) for one in expected)


def test_a_checkpoint_without_its_pool_is_named(trained: StageDir, tmp_path: Path) -> None:
    checkpoint = trained.latest_checkpoint()
    assert checkpoint is not None
    copy = tmp_path / "step-00000001"
    copy.mkdir()
    for file in checkpoint.iterdir():
        if file.is_file() and file.name != "croc_training_state.safetensors":
            (copy / file.name).symlink_to(file.resolve())
    folder = StageDir(tmp_path / "figures")
    folder.root.mkdir()
    folder.recipe_file.write_text(trained.recipe_file.read_text())
    with pytest.raises(RunError, match="lies without its token pool"), one_rank():
        run_figures(folder, start=copy)


def test_figures_without_a_checkpoint_are_wrong_usage(tmp_path: Path) -> None:
    make_data(tmp_path)
    stage_dir = prepare(make_recipe(tmp_path), "reconstruct", tmp_path / "run")
    with pytest.raises(UsageError, match="need a checkpoint"):
        run_figures(stage_dir, start=None)


def test_attention_is_averaged_over_pictures_that_open(tmp_path: Path) -> None:
    make_data(tmp_path)
    (tmp_path / "broken.png").write_text("no picture")
    images = [str(tmp_path / "images" / "0.png"), str(tmp_path / "broken.png"), str(tmp_path / "images" / "1.png")]
    models = [str(make_tiny_llava(tmp_path / name, seed=seed)) for seed, name in enumerate(("one", "two"))]
    task = {"models": models, "images": images, "question": "What is this?", "num_tokens": 3, "device": "cpu"}
    folder = StageDir(tmp_path / "out")
    folder.root.mkdir()
    (folder.root / "task.json").write_text(json.dumps(task))
    run_attention(folder)
    content = read_json(folder.root / "attention.json")
    assert [model["model"] for model in content["models"]] == models
    for model in content["models"]:
        assert model["num_pictures"] == 2
        assert len(model["bad_pictures"]) == 1
        assert all(len(row) == NUM_VISUAL_TOKENS for row in model["visual"])
        assert [round(sum(row.values()), 4) for row in model["shares"]] == [1.0] * len(model["visual"])
        assert max(model["counts"]) == 2
