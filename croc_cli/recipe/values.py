"""Which texts and numbers a recipe may hold: no control characters, paths that a file can have, bounds of reason."""

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from croc_cli.reading import unique_keys

MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4095
"""Of Linux and macOS: NAME_MAX and PATH_MAX without the byte that ends a path."""


def check_text(text: str) -> str:
    """Return a text, or raise ValueError where it has a control character or half a surrogate pair."""
    for letter in text:
        if (letter < " " and letter not in "\t\n\r") or letter == "\x7f" or "\ud800" <= letter <= "\udfff":
            raise ValueError(f"must not hold the character {letter!r}")
    return text


def check_path(text: str) -> str:
    """Return a path, a hub id or a name, or raise ValueError where no file can be called so."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_PATH_BYTES or any(
        len(part.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES for part in text.split("/")
    ):
        raise ValueError(
            f"is not a path that a file can have: a name has {MAX_NAME_BYTES} bytes at most, this {size:,}"
        )
    return text


def plain_value(text: str) -> Any:
    """Return the JSON value that a text holds; the text itself where it holds none."""
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError):
        return text


def check_pattern(text: str) -> str:
    """Return a regular expression, or raise ValueError where it is none."""
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"must be a regular expression: {error}") from error
    return text


def number_or_share(value: object) -> object:
    """Return a number of images, or a share of them such as `5%`; anything else is refused.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:20])
    if isinstance(value, str):
        is_right = re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,9})?%", value) is not None and float(value[:-1]) <= 100
    else:
        is_right = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10**9
    if not is_right:
        raise ValueError("must be a number of images such as 100, or a share of them such as 5%")
    return value


MOST = 10**9
"""No count of steps, samples, tokens or pixels comes near; far above it, arithmetic and memory give out."""
PositiveInt = Annotated[int, Field(gt=0, le=MOST)]
NonNegativeInt = Annotated[int, Field(ge=0, le=MOST)]
PositiveFloat = Annotated[float, Field(gt=0.0, le=1e6)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, le=1e6)]
Workers = Annotated[int, Field(gt=0, le=4096)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
PathText = Annotated[str, AfterValidator(check_path)]
Pattern = Annotated[str, AfterValidator(check_pattern)]


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, values never change after the check."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _check_text(cls, value: Any) -> Any:
        """Refuse characters that no text of a recipe has: a null character ends every path."""
        for text in value if isinstance(value, tuple | dict) else (value,):
            if isinstance(text, str):
                check_text(text)
        return value
