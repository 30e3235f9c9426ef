import json
from dataclasses import asdict
from typing import Any

import pytest

from croc_cli.train.state import TrainerState


def test_a_state_comes_back_as_it_was() -> None:
    state = TrainerState(step=7, seconds=1.5, health={"a": [1]})
    assert TrainerState.from_json(json.loads(json.dumps(asdict(state)))) == state
    assert TrainerState.from_json({"step": 3}).has_trained


@pytest.mark.parametrize(
    "wrong", [{"step": "7"}, {"step": -1}, {"seconds": float("nan")}, {"health": []}, {"step": True}]
)
def test_a_value_of_another_kind_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is "):
        TrainerState.from_json(wrong)
