"""The base class of the model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, model_validator


class Model(BaseModel):
    """A mapping that has the fields of the class and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def refuse_null(cls, data: object) -> object:
        """Refuse null: a field without a value is left out."""
        if isinstance(data, dict) and None in data.values():
            message = "null is not allowed"
            raise ValueError(message)
        return data
