import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from croc_cli.errors import UsageError
from tests.smol.conversations import (
    Emoji,
    Row,
    brief_captions,
    detailed_captions,
    dialogues,
    family_of,
    held_out_questions,
    picture_key,
)
from tests.smol.pictures import (
    PICTURE_SIZE,
    emoji_of_table,
    flatten,
    make_pictures,
    one_of_each_family,
    read_emoji,
)

PACKAGES = Path(os.environ.get("SMOL_PACKAGES", "data/smol/packages"))

MESSAGES: dict[str, Any] = {
    "groups": [{"order": 1, "message": "people & body"}, {"order": 3, "message": "animals & nature"}],
    "subgroups": [{"order": 20, "message": "hands"}, {"order": 38, "message": "marine life"}],
}
TABLE: list[dict[str, Any]] = [
    {"hexcode": "1F1E6", "label": "regional indicator A"},
    {"hexcode": "1F419", "label": "octopus", "group": 3, "subgroup": 38, "tags": ["animal", "ocean"]},
    {
        "hexcode": "1F44B",
        "label": "waving hand",
        "group": 1,
        "subgroup": 20,
        "tags": ["hello"],
        "skins": [{"hexcode": "1F44B-1F3FB", "label": "waving hand: light skin tone"}],
    },
]


def many_emoji() -> list[Emoji]:
    numbers = range(0x1F400, 0x1F400 + 300)
    return [
        Emoji(f"{n:x}", f"{n:x}", f"thing {n}", ("odd", "even")[n % 2], "things", (f"word{n}", "thing"))
        for n in numbers
    ]


def texts(row: Row) -> list[tuple[str, str]]:
    messages: Any = row["conversations"]
    return [(message["from"], message["value"]) for message in messages]


def test_the_table_gives_groups_and_tags_to_skin_tones_and_leaves_out_what_has_no_group() -> None:
    assert emoji_of_table(TABLE, MESSAGES) == [
        Emoji("1f419", "1f419", "octopus", "animals & nature", "marine life", ("animal", "ocean")),
        Emoji("1f44b", "1f44b", "waving hand", "people & body", "hands", ("hello",)),
        Emoji("1f44b-1f3fb", "1f44b", "waving hand: light skin tone", "people & body", "hands", ("hello",)),
    ]


def test_keys_of_both_packages_meet() -> None:
    assert picture_key("0039-FE0F-20E3") == picture_key("39-fe0f-20e3") == "39-20e3"
    assert picture_key("1f3f4-e0067_e0062") == picture_key("1F3F4-E0067-E0062")


def test_gender_skin_tone_and_direction_make_variants_of_one_family_and_flags_do_not() -> None:
    runners = ("1F3C3", "1F3C3-1F3FB-200D-2640-FE0F", "1F3C3-200D-27A1-FE0F")
    judges = ("1F9D1-200D-2696-FE0F", "1F468-200D-2696-FE0F", "1F469-1F3FF-200D-2696-FE0F")

    assert {family_of(code) for code in runners} == {"1f3c3"}
    assert {family_of(code) for code in judges} == {"1f9d1-2696"}
    assert family_of("1F1F8-1F1EA") != family_of("1F1F2-1F1F0")


def test_a_tenth_of_the_families_is_held_out_with_all_variants() -> None:
    emoji = many_emoji()
    held_out = [each for each in emoji if each.is_test]
    variant = Emoji(f"{held_out[0].key}-1f3fb", held_out[0].family, "a variant", "odd", "things", ())

    assert 0.05 < len(held_out) / len(emoji) < 0.15
    assert variant.is_test


def test_fewer_pictures_to_train_on_are_of_different_families_and_always_the_same() -> None:
    emoji = [*many_emoji(), Emoji("1f400-1f3fb", "1f400", "a variant", "odd", "things", ())]

    chosen = one_of_each_family(emoji, count=40)

    assert len({each.family for each in chosen}) == len(chosen) == 40
    assert chosen == one_of_each_family(emoji, count=40)
    assert set(chosen) < set(one_of_each_family(emoji, count=60))


def test_a_brief_caption_is_the_label_under_one_picture() -> None:
    octopus = emoji_of_table(TABLE, MESSAGES)[0]

    (row,) = brief_captions([octopus])

    assert (row["id"], row["image"]) == ("1f419", "1f419.png")
    (asker, request), (answerer, caption) = texts(row)
    assert (asker, answerer, caption) == ("human", "gpt", "octopus")
    assert request.startswith("<image>\n")
    assert request.count("<image>") == 1


def test_a_detailed_caption_says_label_group_subgroup_and_tags() -> None:
    rows = detailed_captions(emoji_of_table(TABLE, MESSAGES)[:1])

    caption = texts(rows[0])[1][1]

    assert caption.endswith(
        'the emoji "octopus". It belongs to animals & nature (marine life). It goes with the words animal, ocean.'
    )


@pytest.mark.parametrize("build", [detailed_captions, dialogues])
def test_about_a_sixth_as_many_rows_are_text_alone_and_have_neither_image_key_nor_placeholder(build: Any) -> None:
    rows = build(many_emoji())

    text_only = [row for row in rows if "image" not in row]

    assert len(rows) == 300 + len(text_only)
    assert 25 <= len(text_only) <= 75
    assert not any("<image>" in text for row in text_only for _, text in texts(row))
    assert len({row["id"] for row in rows}) == len(rows)


def test_a_dialogue_shows_the_picture_once_and_takes_turns() -> None:
    for row in dialogues(many_emoji()):
        roles = [role for role, _ in texts(row)]
        assert roles == ["human", "gpt"] * (len(roles) // 2)
        if "image" in row:
            assert len(roles) == 8
            assert [text.count("<image>") for _, text in texts(row)] == [1] + [0] * 7


def test_yes_and_no_are_equally_common_and_true_and_the_first_does_not_give_away_the_second() -> None:
    emoji = {each.key: each for each in many_emoji()}
    pairs: Counter[tuple[str, ...]] = Counter()
    for row in dialogues(list(emoji.values())):
        if "image" not in row:
            continue
        turns = texts(row)
        answers = []
        for (_, question), (_, answer) in zip(turns[::2], turns[1::2], strict=True):
            if "Does the word" in question:
                assert (question.split('"')[1] in emoji[str(row["id"])].tags) == (answer == "Yes")
                answers.append(answer)
        pairs[tuple(answers)] += 1

    assert set(pairs) == {("Yes", "Yes"), ("Yes", "No"), ("No", "Yes"), ("No", "No")}
    assert all(50 < count < 100 for count in pairs.values())


def test_held_out_questions_are_single_turns_whose_id_ends_with_their_type() -> None:
    rows = held_out_questions(many_emoji())

    types = Counter(str(row["id"]).rsplit("-", 1)[1] for row in rows)

    assert types == {"name": 300, "group": 300, "tag": 300}
    assert all(len(texts(row)) == 2 for row in rows)


def test_rows_are_the_same_every_time() -> None:
    assert dialogues(many_emoji()) == dialogues(many_emoji())


def test_what_is_transparent_becomes_white() -> None:
    picture = Image.new("RGBA", (PICTURE_SIZE, PICTURE_SIZE), (0, 0, 0, 0))
    picture.putpixel((3, 4), (255, 0, 0, 255))

    flat = flatten(picture)

    assert (flat.mode, flat.size) == ("RGB", (256, 256))
    assert flat.getpixel((0, 0)) == (255, 255, 255)
    assert flat.getpixel((3, 4)) == (255, 0, 0)


def test_missing_packages_are_named_with_their_npm_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the npm packages of the pictures are not installed: no folder") as caught:
        read_emoji(tmp_path)

    assert caught.value.hint == (
        f"npm install --prefix {tmp_path} @lobehub/fluent-emoji-3d@1.1.0 emojibase-data@17.0.0"
    )


@pytest.mark.slow
def test_the_packages_give_3372_pictures_and_no_test_picture_is_trained_on(tmp_path: Path) -> None:
    if not (PACKAGES / "node_modules").is_dir():
        pytest.skip(
            f"needs `npm install --prefix {PACKAGES} @lobehub/fluent-emoji-3d@1.1.0 emojibase-data@17.0.0`, "
            "or SMOL_PACKAGES set to where they are"
        )

    counts = make_pictures(PACKAGES, tmp_path)

    assert counts["images"] == len(list((tmp_path / "images").iterdir())) == 3372
    pictures = {}
    for name in ("align", "reconstruct", "finetune", "test"):
        rows = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        assert len(rows) == counts[f"{name}.json"]
        pictures[name] = {row["image"] for row in rows if "image" in row}
        assert all((tmp_path / "images" / picture).is_file() for picture in pictures[name])
    assert pictures["align"] == pictures["reconstruct"] == pictures["finetune"]
    assert not pictures["align"] & pictures["test"]
    assert len(pictures["align"]) + len(pictures["test"]) == 3372
