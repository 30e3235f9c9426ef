"""The demo's training data: fixed by its arguments, in LLaVA's form, each kind its own scenes."""

import numpy as np
import pytest

from croc_cli.demo.dataset import SCENE_TASKS, SceneDataset, SceneTask
from croc_cli.names import IMAGE_TOKEN


@pytest.mark.parametrize("kind", SCENE_TASKS)
def test_the_same_arguments_give_the_same_samples(kind: SceneTask) -> None:
    one, other = (SceneDataset(kind, num_samples=20, seed=5, text_only_share=0.3) for _ in range(2))
    assert [one[i] for i in range(20)] == [other[i] for i in range(20)]
    assert len({one[i].id for i in range(20)}) == 20


@pytest.mark.parametrize("kind", SCENE_TASKS)
def test_every_picture_has_its_placeholder_in_the_first_turn(kind: SceneTask) -> None:
    data = SceneDataset(kind, num_samples=60, seed=0, text_only_share=0.3)
    for sample in (data[index] for index in range(60)):
        assert [turn.role for turn in sample.turns] == ["human", "gpt"] * (len(sample.turns) // 2)
        assert "".join(turn.text for turn in sample.turns).count(IMAGE_TOKEN) == len(sample.images)
        assert sample.turns[0].text.startswith(f"{IMAGE_TOKEN}\n") == bool(sample.images)


def test_the_text_only_share_is_kept_and_brief_captions_have_none() -> None:
    for kind, low, high in (("detailed_captions", 0.2, 0.4), ("questions", 0.2, 0.4), ("brief_captions", 0.0, 0.0)):
        data = SceneDataset(kind, num_samples=300, seed=0, text_only_share=0.3)
        share = np.mean([not data[index].images for index in range(300)])
        assert low <= share <= high


def test_the_kinds_share_no_scene() -> None:
    names = [
        {data[index].images[0].name for index in range(50)}
        for data in (SceneDataset(kind, num_samples=50, seed=0) for kind in SCENE_TASKS)
    ]
    assert len(set.union(*names)) == 150


def test_a_picture_opens_and_a_question_is_asked_once() -> None:
    data = SceneDataset("questions", num_samples=30, seed=0)
    assert data[0].images[0].open().size == (72, 72)
    for sample in (data[index] for index in range(30)):
        asked = [turn.text.removeprefix(f"{IMAGE_TOKEN}\n") for turn in sample.turns if turn.role == "human"]
        assert len(set(asked)) == len(asked)
        assert len(asked) in (1, 6, 7)


def test_detailed_captions_are_asked_for_alone_and_after_questions() -> None:
    data = SceneDataset("questions", num_samples=300, seed=0)
    kinds = [(len(data[i].turns) // 2, data[i].turns[-1].text.startswith("There are")) for i in range(300)]
    shares = {kind: kinds.count(kind) / 300 for kind in set(kinds)}
    assert set(shares) == {(1, True), (6, False), (7, True)}
    assert shares[1, True] == pytest.approx(0.2, abs=0.05)
    assert shares[7, True] == pytest.approx(0.2, abs=0.05)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="text_only_share 2 is not between 0 and 1"):
        SceneDataset("questions", num_samples=1, seed=0, text_only_share=2)
    with pytest.raises(ValueError, match="kind of scene data 'riddles' is not one of brief_captions"):
        SceneDataset("riddles", num_samples=1, seed=0)  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="sample 3 of a scene data set of 3"):
        SceneDataset("questions", num_samples=3, seed=0)[3]
