"""Reads the JSON files that the chart writes for the programs: strictly, with all problems of a file in one message."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from common.durations import parse_duration
from common.json_reader import parse_json

if TYPE_CHECKING:
    import re
    from collections.abc import Callable

T = TypeVar("T")
HIGHEST_PORT = 65535


class InvalidConfiguration(ValueError):
    """A file cannot be used; the message has a line for each problem."""


class Fields:
    """The fields of a JSON object.

    Each method gets a function that converts what it takes. The function raises a ValueError with a message such as
    "must be a list" for a value that cannot be used, which may be None, for a field that is missing. That becomes one
    of the problems for which the whole file is refused, and the method returns None to go on to the next field.
    """

    def __init__(self, value: object, place: str, problems: list[str]) -> None:
        """Read from an object; `place` precedes the names of its fields in messages."""
        self._fields: dict[str, Any] = value if isinstance(value, dict) else {}
        self._place = place
        self._problems = problems

    def take(self, name: str, convert: Callable[[Any], T]) -> T:
        """Return a field, converted."""
        value = self._fields.get(name)
        try:
            return convert(value)
        except ValueError as error:
            self.report(name, f"{error}, but is {'missing' if value is None else repr(value)}")
            return cast("T", None)

    def take_object(self, name: str, convert: Callable[[Fields], T]) -> T:
        """Return an object, converted."""
        value = self.take(name, lambda value: require(value, dict, "an object"))
        return convert(Fields(value, f"{self._place}{name}.", self._problems))

    def take_objects(self, name: str, convert: Callable[[Fields], T]) -> tuple[T, ...]:
        """Return a list of objects, each converted."""
        entries = enumerate(self.take(name, lambda value: require(value, list, "a list")) or [])
        return tuple(
            convert(Fields(entry, f"{self._place}{name}[{index}].", self._problems)) for index, entry in entries
        )

    def has(self, name: str) -> bool:
        """Whether a field is there."""
        return self._fields.get(name) is not None

    def report(self, name: str, problem: str) -> None:
        """Add a problem with a field."""
        self._problems.append(f"{self._place}{name}: {problem}")


def read_config(path: Path, convert: Callable[[Fields], T]) -> T:
    """Return the object in a file, converted.

    Raises:
        InvalidConfiguration: The file cannot be read, or something in it is missing or cannot be used.
    """
    try:
        content = parse_json(path.read_bytes())
    except OSError as error:
        message = f"{path}: cannot be read: {error.strerror or error}"
        raise InvalidConfiguration(message) from error
    except ValueError as error:
        message = f"{path}: is not JSON: {error}"
        raise InvalidConfiguration(message) from error
    problems: list[str] = []
    converted = convert(Fields(content, "", problems))
    if problems:
        raise InvalidConfiguration("\n".join(f"{path}: {problem}" for problem in problems))
    return converted


def require(value: object, kind: type[T], wanted: str, is_good: Callable[[T], object] = lambda _: True) -> T:
    """Return a value that has the right type and is good.

    Raises:
        ValueError: It is not what is `wanted`.
    """
    # For Python, unlike for the chart, True and False are numbers.
    if not isinstance(value, kind) or isinstance(value, bool) or not is_good(value):
        message = f"must be {wanted}"
        raise ValueError(message)
    return value


def to_text(value: object) -> str:
    """Return a string that is not empty."""
    return require(value, str, "a string that is not empty", bool)


def to_optional_text(value: object) -> str:
    """Return a string, which may be empty."""
    return require(value, str, "a string")


def to_texts(value: object) -> tuple[str, ...]:
    """Return a list of strings."""
    texts = require(value, list, "a list of strings", lambda texts: all(isinstance(text, str) for text in texts))
    return tuple(texts)


def to_matching_text(pattern: re.Pattern[str], wanted: str) -> Callable[[object], str]:
    """Return a function that returns a string that matches a pattern; `wanted` says what that is."""
    return lambda value: require(value, str, wanted, pattern.fullmatch)


def to_path(value: object) -> Path:
    """Return an absolute path."""
    return Path(require(value, str, "an absolute path", lambda text: text.startswith("/")))


def to_whole_number(lowest: int, wanted: str, highest: float = float("inf")) -> Callable[[object], int]:
    """Return a function that returns a whole number between two bounds; `wanted` says what that is."""
    return lambda value: require(value, int, wanted, lambda number: lowest <= number <= highest)


to_port = to_whole_number(1, f"a port from 1 to {HIGHEST_PORT}", HIGHEST_PORT)


def to_seconds(value: object) -> float:
    """Return the seconds of a duration."""
    return parse_duration(value if isinstance(value, str) else "")


def to_positive_seconds(value: object) -> float:
    """Return the seconds of a duration that is not zero."""
    return require(to_seconds(value), float, "a duration above 0 such as 5s or 500ms", bool)
