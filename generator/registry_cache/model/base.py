"""The base class of the model."""

from __future__ import annotations

from typing import Any

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


class NullableModel(Model):
    """A mapping in which null stands for a field that is left out, as in Gardener, which reads it into a pointer."""

    @model_validator(mode="before")
    @classmethod
    def refuse_null(cls, data: object) -> object:
        """Leave out the fields that are null."""
        return drop_nulls(data)


def drop_nulls(data: Any) -> Any:  # noqa: ANN401 - any value
    """Return a mapping without the keys that are null; any other value as it is."""
    return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data
