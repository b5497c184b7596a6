"""Reads a YAML document strictly, and remembers on which line each of its values stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path

MAX_BYTES = 1_000_000
MAX_VALUES = 100_000

type_names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}


class Unreadable(Exception):
    """The file is no YAML document that could be checked; the message says where and why."""


@dataclass
class Document:
    """A document's content, and the line of each value by its path, as `("caches", 0, "upstream")`."""

    content: Any
    lines: dict[tuple[Hashable, ...], int] = field(default_factory=dict)

    def line(self, path: tuple[Hashable, ...]) -> int:
        """The line of a value, or of the nearest that holds it."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 1)


def read(path: Path) -> Document:
    """Read a file.

    Raises:
        Unreadable: there is no such file, it is too large, no YAML, no single document, or has a key twice.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        raise Unreadable(message) from error
    return parse(raw)


def parse(raw: bytes) -> Document:
    """Read what a file holds; errors as with `read`."""
    if len(raw) > MAX_BYTES:
        message = f"has {len(raw)} bytes; a RegistryConfig has less than {MAX_BYTES}"
        raise Unreadable(message)
    try:
        text = raw.decode("utf-8-sig")
        nodes = [node for node in yaml.compose_all(text, Loader=yaml.CSafeLoader) if node is not None]
    except UnicodeDecodeError as error:
        message = f"is not UTF-8: byte {error.start} is {raw[error.start]:#x}"
        raise Unreadable(message) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        hint = "; indent with spaces, not with tabs" if "\\t" in str(error.problem) else ""
        message = f"{where}is not YAML: {error.problem}{hint}"
        raise Unreadable(message) from error
    except (yaml.YAMLError, RecursionError) as error:
        message = f"is not YAML: {type(error).__name__}"
        raise Unreadable(message) from error
    if len(nodes) != 1:
        message = "is empty" if not nodes else f"holds {len(nodes)} documents; write one into a file"
        raise Unreadable(message)
    document = Document(None)
    try:
        document.content = _construct(nodes[0], (), document)
    except RecursionError as error:
        message = "is nested too deeply"
        raise Unreadable(message) from error
    return document


def _construct(node: yaml.Node, path: tuple[Hashable, ...], document: Document) -> Any:  # noqa: ANN401 - any YAML
    """The node's value; every value gets a path of its own, so that an alias that multiplies itself is noticed."""
    document.lines[path] = node.start_mark.line + 1
    if len(document.lines) > MAX_VALUES:
        message = f"holds more than {MAX_VALUES} values, aliases counted where they are used"
        raise Unreadable(message)
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, (*path, index), document) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = _scalar(key_node)
            if key in mapping:
                message = f"line {key_node.start_mark.line + 1}: {key} is there already; write each key once"
                raise Unreadable(message)
            mapping[key] = _construct(value_node, (*path, key), document)
            document.lines[(*path, key)] = key_node.start_mark.line + 1
        return mapping
    return _scalar(node)


def _scalar(node: yaml.Node) -> Any:  # noqa: ANN401 - any YAML
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.ScalarNode):
        message = f"line {line}: a key is a list or a mapping; write text"
        raise Unreadable(message)
    loader = yaml.SafeLoader("")
    try:
        value = loader.construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        message = f"line {line}: {node.value!r} with the tag {node.tag} is no plain value"
        raise Unreadable(message) from error
    finally:
        loader.dispose()
    return value
