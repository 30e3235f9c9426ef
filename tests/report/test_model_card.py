"""The model card says what the run wrote down, and nothing of the machine."""

from pathlib import Path

import yaml

from croc_cli.report.model_card import model_card, without_local_paths
from tests.checkpoint.test_publish import make_checkpoint
from tests.tiny import make_tiny_llava


def test_the_card_says_parts_data_licences_recipe_and_results(tmp_path: Path) -> None:
    card = model_card(make_checkpoint(tmp_path), "me/my-llava", licence="apache-2.0")
    front = yaml.safe_load(card.split("---")[1])
    assert front["pipeline_tag"] == "image-text-to-text"
    assert front["license"] == "apache-2.0"
    assert "# my-llava" in card
    assert "the stage `finetune`, step 20, of the recipe `nano`" in card
    assert "| finetune | drawn scenes, questions |" in card
    assert "| its own picture | 90.0 | 70.0 | 80.0 | 78.0 |" in card
    assert "arXiv:2410.14332" in card
    assert "SHA-256 of the weights: `cd12`" in card
    assert "```yaml\nname: nano" in card
    assert str(tmp_path) not in card


def test_the_card_says_what_each_stage_trained(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    assert "## Training\n\n| stage | trains |" in model_card(folder, "me/m", licence=None)
    assert "| finetune | projector, LLM |" in model_card(folder, "me/m", licence=None)
    rates = "learning_rate:\n    vision_tower: 2.0e-06"
    text = (folder / "recipe.yaml").read_text().replace("learning_rate:\n    vision_tower: null", rates)
    (folder / "recipe.yaml").write_text(text)
    assert "| finetune | tower, projector, LLM |" in model_card(folder, "me/m", licence=None)


def test_the_card_of_a_model_with_normalised_tokens_warns(tmp_path: Path) -> None:
    card = model_card(make_checkpoint(tmp_path, visual_norm="l2"), "me/croc", licence=None)
    assert "which transformers and vLLM leave out: their answers are wrong" in card
    assert "AutoModelForImageTextToText" not in card
    assert "No licence was stated" in card


def test_a_stock_folder_without_run_or_recipe_has_a_card_too(tmp_path: Path) -> None:
    card = model_card(make_tiny_llava(tmp_path / "m"), "me/m", licence=None)
    assert "saved by croc" in card
    assert "## Results" not in card


def test_paths_of_this_machine_lose_all_but_their_end() -> None:
    text = "path: /home/me/data/x.json\nimages: images/coco\nurl: https://a.b/c/d\nid: me/model"
    assert without_local_paths(text) == "path: x.json\nimages: images/coco\nurl: https://a.b/c/d\nid: me/model"
