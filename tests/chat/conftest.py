import pytest
from PIL import Image

from croc_cli.chat.images import ChatImage
from croc_cli.checkpoint.load import load_for_inference
from croc_cli.checkpoint.metadata import CheckpointMetadata
from tests.tiny import make_tiny_llava


@pytest.fixture(scope="session")
def vicuna_folder(tmp_path_factory):
    """A checkpoint as croc's finetune stage writes it, with random weights."""
    folder = tmp_path_factory.mktemp("chat") / "runs" / "tiny" / "finetune" / "checkpoints" / "step-00000002"
    make_tiny_llava(folder, seed=3)
    CheckpointMetadata(stage="finetune", step=2, template="vicuna_v1").write(folder)
    (folder / "recipe.yaml").write_text("name: tiny\nchat:\n  max_tokens: 12\n")
    return folder


@pytest.fixture(scope="session")
def vicuna(vicuna_folder):
    return load_for_inference(vicuna_folder)


@pytest.fixture
def red():
    return ChatImage("/pictures/red.png", Image.new("RGB", (60, 40), (220, 20, 20)))


@pytest.fixture
def noise():
    return ChatImage("/pictures/noise.png", Image.effect_noise((40, 60), 80).convert("RGB"))
