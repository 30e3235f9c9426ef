"""Reads a value given as text for a nested key, by pydantic-settings' environment source."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from croc_cli.reading import RepeatedKeyError, unique_keys
from croc_cli.recipe.issues import KeyPath
from croc_cli.recipe.schema import Recipe
from croc_cli.recipe.values import plain_value


class UnreadableText(ValueError):
    """Text that is not JSON where the key takes a list or a mapping."""


class _RecipeSettings(Recipe, BaseSettings):
    """The recipe's keys as pydantic-settings sees them; never made, only read for its fields."""

    # strict makes the source turn text into each key's own type: "3" into the 3 that a Literal[3] takes
    model_config = SettingsConfigDict(strict=True, env_nested_delimiter="__", env_parse_none_str="null")


class _OneVariable(EnvSettingsSource):
    """An environment of one variable."""

    def __init__(self, name: str, text: str) -> None:
        self._variable = {name: text}
        super().__init__(_RecipeSettings)

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:  # noqa: ARG002  # pydantic's
        """Read a list or mapping of JSON, in which no key stands twice."""
        return json.loads(value, object_pairs_hook=unique_keys)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        from pydantic_settings.sources.utils import parse_env_vars

        return parse_env_vars(self._variable, self.case_sensitive, self.env_ignore_empty, self.env_parse_none_str)


def read_text_value(path: KeyPath, text: str) -> dict[str, Any]:
    """Return nested mappings that hold the value at its key.

    Args:
        path: Key; its first part must be one of the recipe's.
        text: As a variable holds it.

    Raises:
        UnreadableText: The key takes a list or a mapping, and the text is not JSON.
    """
    if path[1:2] == ("deepspeed",) and len(path) > 2:  # keys that are not the recipe's own have no type to go by
        value: Any = plain_value(text)
        for key in reversed(path):
            value = {key: value}
        return dict(value)
    try:
        return _OneVariable("__".join(path), text)()
    except (SettingsError, RecursionError) as error:
        if isinstance(error.__cause__, RepeatedKeyError):
            raise UnreadableText(str(error.__cause__)) from error
        shown = repr(text if len(text) <= 80 else f"{text[:80]}…")
        raise UnreadableText(f"must be written as JSON, such as [0.9, 0.98], not {shown}") from error
