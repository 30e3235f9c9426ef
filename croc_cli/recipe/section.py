"""What every part of a recipe is: strict about its keys, fixed after the check."""

from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from croc_cli.recipe.values import check_text


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
