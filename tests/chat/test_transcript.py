import json

import pytest

from croc_cli.chat.transcript import save_transcript
from croc_cli.data.sample import Turn
from croc_cli.errors import UsageError

TURNS = [
    Turn("human", "<image>\nWas ist das?"),
    Turn("gpt", "Ein Krokodil.\nGrün."),
    Turn("human", "<image>\n<image>\nAnd these?"),
    Turn("gpt", "Two birds."),
]
NAMES = ["/p/a.png", "/p/b.png", "http://host/c.png"]


def test_json_is_what_llava_trains_on(tmp_path):
    file = tmp_path / "talk.json"
    save_transcript(file, TURNS[:2], image_names=NAMES[:1], model="m")
    assert json.loads(file.read_text(encoding="utf-8")) == [
        {
            "id": "chat",
            "model": "m",
            "image": "/p/a.png",
            "conversations": [
                {"from": "human", "value": "<image>\nWas ist das?"},
                {"from": "gpt", "value": "Ein Krokodil.\nGrün."},
            ],
        }
    ]


def test_several_pictures_are_a_list_and_none_is_no_key(tmp_path):
    save_transcript(tmp_path / "a.json", TURNS, image_names=NAMES, model="m")
    assert json.loads((tmp_path / "a.json").read_text())[0]["image"] == NAMES
    save_transcript(tmp_path / "b.JSON", [Turn("human", "Hi"), Turn("gpt", "Hi")], image_names=[], model="m")
    assert "image" not in json.loads((tmp_path / "b.JSON").read_text())[0]


def test_text_is_what_people_read(tmp_path):
    save_transcript(tmp_path / "talk.txt", TURNS, image_names=NAMES, model="m")
    assert (tmp_path / "talk.txt").read_text(encoding="utf-8") == (
        "> [/p/a.png]\n> Was ist das?\n\nEin Krokodil.\nGrün.\n\n"
        "> [/p/b.png]\n> [http://host/c.png]\n> And these?\n\nTwo birds.\n"
    )


def test_a_file_is_replaced_only_when_told_to(tmp_path):
    file = tmp_path / "talk.txt"
    file.write_text("mine")
    with pytest.raises(UsageError, match=r"talk\.txt exists") as caught:
        save_transcript(file, TURNS, image_names=NAMES, model="m")
    assert caught.value.hint == f"/save {file} --overwrite replaces it"
    assert file.read_text() == "mine"
    save_transcript(file, TURNS, image_names=NAMES, model="m", overwrite=True)
    assert "Krokodil" in file.read_text(encoding="utf-8")


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        save_transcript(tmp_path / "no" / "talk.txt", TURNS, image_names=NAMES, model="m")
