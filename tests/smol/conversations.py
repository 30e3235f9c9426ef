"""Builds LLaVA rows out of labelled emoji: captions, dialogues, text-only tasks and held-out questions."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

Message = dict[str, str]
Row = dict[str, object]

HELD_OUT = 10  # one family of emoji in ten is kept for the test
TEXT_ONLY = 6  # one emoji in six also gives a row without picture
MOST_TAGS = 8  # words of a detailed caption; emojibase has up to twenty

# What tells variants of one emoji apart: presentation, joiner, gender, direction, the five skin tones.
VARIANT_CODES = {"fe0f", "200d", "2640", "2642", "27a1", "1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
PERSON_CODES = {"1f468", "1f469", "1f9d1"}  # man, woman, person

BRIEF_REQUESTS = (
    "Give a brief description of the image.",
    "Write a short caption for this picture.",
    "What does the picture show, in a few words?",
    "Summarize the image in a short phrase.",
)
DETAILED_REQUESTS = (
    "Describe this image in detail.",
    "Explain what you see, and what it stands for.",
    "Write a detailed description of the picture.",
)
NAME_REQUESTS = ("What is this?", "What does this picture show?", "Name what you see.")


@dataclass(frozen=True)
class Emoji:
    """A labelled picture.

    Args:
        key: Its code points as `picture_key` writes them; also the name of its picture.
        family: Code points of what it is a variant of; variants are trained on or held out together.
        label: What it shows, such as `octopus`.
        group: One of nine, such as `animals & nature`.
        subgroup: Such as `marine life`.
        tags: Words that go with it; may be empty.
    """

    key: str
    family: str
    label: str
    group: str
    subgroup: str
    tags: tuple[str, ...]

    @property
    def is_test(self) -> bool:
        """Whether it is held out: by a hash of its family, so the same on every machine."""
        # Couples and families differ only in who is in them, under unrelated code points: all are trained on.
        if self.subgroup == "family":
            return False
        return int(hashlib.sha256(self.family.encode()).hexdigest(), 16) % HELD_OUT == 0

    def draw(self, purpose: str) -> random.Random:
        """Return random numbers that depend on the emoji and the purpose alone."""
        return random.Random(f"{purpose} {self.key}")


def picture_key(hexcode: str) -> str:
    """Return code points as both packages can be compared by: `0039-FE0F-20E3` and `39-20e3` are `39-20e3`."""
    parts = hexcode.lower().replace("_", "-").split("-")
    return "-".join(part.lstrip("0") for part in parts if part != "fe0f")


def family_of(hexcode: str) -> str:
    """Return what the variants of an emoji have in common: `man judge` and `woman judge: dark skin tone` are one."""
    parts = [part for part in picture_key(hexcode).split("-") if part not in VARIANT_CODES]
    return "-".join("1f9d1" if part in PERSON_CODES else part for part in parts)


def brief_captions(emoji: Sequence[Emoji]) -> list[Row]:
    """Return one row for each picture: its label."""
    return [_picture_row(each, [(each.draw("brief").choice(BRIEF_REQUESTS), each.label)]) for each in emoji]


def detailed_captions(emoji: Sequence[Emoji]) -> list[Row]:
    """Return one row for each picture, what is known of it in two or three sentences, and some rows of text alone."""
    rows: list[Row] = []
    for each in emoji:
        draw = each.draw("detailed")
        opening = draw.choice(("The picture shows", "This is", "Here we see"))
        answer = f'{opening} the emoji "{each.label}". {_facts(each)}'
        rows.append(_picture_row(each, [(draw.choice(DETAILED_REQUESTS), answer)]))
        if draw.randrange(TEXT_ONLY) == 0:
            rows.append(_text_row(each, [draw.choice(_text_tasks(each))]))
    return rows


def dialogues(emoji: Sequence[Emoji]) -> list[Row]:
    """Return one dialogue of up to four questions for each picture, and some rows of text alone."""
    rows: list[Row] = []
    for each in emoji:
        draw = each.draw("dialogue")
        turns = [_name_question(each, draw), _group_question(each, emoji)]
        # Two tosses of their own: were it always one yes and one no, the first answer would give away the second.
        turns += _tag_question(each, emoji, draw) + _tag_question(each, emoji, draw)
        draw.shuffle(turns)
        rows.append(_picture_row(each, turns))
        if draw.randrange(TEXT_ONLY) == 0:
            rows.append(_text_row(each, _text_tasks(each)))
    return rows


def held_out_questions(emoji: Sequence[Emoji]) -> list[Row]:
    """Return each question as a row of its own, its type at the end of its id: `-name`, `-group` or `-tag`."""
    rows: list[Row] = []
    for each in emoji:
        draw = each.draw("test")
        rows.append(_picture_row(each, [_name_question(each, draw)], suffix="-name"))
        rows.append(_picture_row(each, [_group_question(each, emoji)], suffix="-group"))
        if tag_question := _tag_question(each, emoji, draw):
            rows.append(_picture_row(each, tag_question, suffix="-tag"))
    return rows


def _facts(emoji: Emoji) -> str:
    """Return group, subgroup and tags as sentences."""
    group = f"It belongs to {emoji.group} ({emoji.subgroup})."
    return f"{group} It goes with the words {_tag_list(emoji)}." if emoji.tags else group


def _tag_list(emoji: Emoji) -> str:
    return ", ".join(emoji.tags[:MOST_TAGS])


def _name_question(emoji: Emoji, draw: random.Random) -> tuple[str, str]:
    return draw.choice(NAME_REQUESTS), emoji.label


def _group_question(emoji: Emoji, all_emoji: Sequence[Emoji]) -> tuple[str, str]:
    groups = sorted({each.group for each in all_emoji})
    return f"Which group does it belong to: {', '.join(groups)}?", emoji.group


def _tag_question(emoji: Emoji, all_emoji: Sequence[Emoji], draw: random.Random) -> list[tuple[str, str]]:
    """Return a question whose answer is yes or no by the toss of a coin; none where the emoji has no tags.

    The wrong word is a tag of another emoji, drawn as the right one is, so that the word alone tells nothing.
    """
    own = {*emoji.tags, *emoji.label.lower().split()}
    others = [each for each in all_emoji if each.family != emoji.family and not own.issuperset(each.tags)]
    if not emoji.tags or not others:
        return []
    word, answer = draw.choice(emoji.tags), "Yes"
    if draw.random() < 0.5:
        word, answer = draw.choice([tag for tag in draw.choice(others).tags if tag not in own]), "No"
    return [(f'Does the word "{word}" go with this picture? Answer yes or no.', answer)]


def _text_tasks(emoji: Emoji) -> list[tuple[str, str]]:
    """Return tasks about an emoji that is described in words, for rows without picture."""
    tasks = [
        (f'Which group of emoji does "{emoji.label}" belong to?', f"It belongs to {emoji.group}."),
        (f'Describe the emoji "{emoji.label}".', _facts(emoji)),
    ]
    if emoji.tags:
        described = f"An emoji belongs to {emoji.group} ({emoji.subgroup}) and goes with the words {_tag_list(emoji)}."
        tasks.append((f"{described} Which one could it be?", f'It could be "{emoji.label}".'))
    return tasks


def _picture_row(emoji: Emoji, turns: list[tuple[str, str]], *, suffix: str = "") -> Row:
    """Return a row whose first question shows the picture."""
    (question, answer), *rest = turns
    messages = _messages([(f"<image>\n{question}", answer), *rest])
    return {"id": emoji.key + suffix, "image": f"{emoji.key}.png", "conversations": messages}


def _text_row(emoji: Emoji, turns: list[tuple[str, str]]) -> Row:
    """Return a row without picture: the key `image` is absent, as LLaVA has it."""
    return {"id": f"{emoji.key}-text", "conversations": _messages(turns)}


def _messages(turns: list[tuple[str, str]]) -> list[Message]:
    return [
        {"from": role, "value": value}
        for question, answer in turns
        for role, value in (("human", question), ("gpt", answer))
    ]
