"""Reads a YAML document as strictly as Gardener and as Helm understands it, and remembers the line of each value."""

from __future__ import annotations

import json
import math
import re
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

    Key = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_VALUES = 20_000
MAX_QUOTED_CHARACTERS = 60


class Unreadable(Exception):
    """The file is not a single YAML document; `text` is the reason, `line` is its line, if there is one."""

    def __init__(self, text: str, line: int | None = None) -> None:
        """Store the reason and the line."""
        super().__init__(text if line is None else f"line {line}: {text}")
        self.text = text
        self.line = line


@dataclass
class Document:
    """A document's content, and the line of each value by its path, as `("caches", 0, "upstream")`.

    It may be a part of a larger document, at the path `inside`. Its own paths do not begin with that.
    """

    content: Any
    lines: dict[Key, int] = field(default_factory=dict)
    inside: Key = ()

    def line(self, path: Key) -> int:
        """Return the line of a value, or of the nearest value that contains it."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 1)

    def part(self, path: Key) -> Document:
        """Return the part of the document at a path."""
        content = self.content
        for key in path:
            content = content[key]
        lines = {own[len(path) :]: line for own, line in self.lines.items() if own[: len(path)] == path}
        return Document(content, lines, self.inside + path)


def read(name: str) -> Document:
    """Read a file, or standard input where the name is `-`.

    Raises:
        Unreadable: The file does not exist, is too large, is not YAML, does not contain exactly one document, or has a
            key twice.
    """
    try:
        with nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        raise Unreadable(message) from error
    return parse(raw)


def parse(raw: bytes) -> Document:
    """Read the content of a file; errors as with `read`."""
    if len(raw) > MAX_BYTES:
        message = f"is larger than {MAX_BYTES} bytes"
        raise Unreadable(message)
    try:
        loader = _Loader(raw.decode("utf-8-sig"))
        nodes = [*_nodes(loader)]
        if len(nodes) != 1:
            message = (
                "is empty"
                if not nodes
                else f"contains {len(nodes)} documents; write each of them into a file of its own"
            )
            raise Unreadable(message)
        document = Document(None)
        document.content = _construct(loader, nodes[0], (), document)
    except UnicodeDecodeError as error:
        message = f"is not UTF-8: byte {error.start} is {raw[error.start]:#x}"
        raise Unreadable(message) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = "; indent with spaces, not with tabs" if "\\t" in str(error.problem) else ""
        message = f"is not YAML: {error.problem}{hint}"
        raise Unreadable(message, mark.line + 1 if mark else None) from error
    except yaml.reader.ReaderError as error:
        message = f"is not YAML: {error.reason}: {error.character!r}"
        raise Unreadable(message) from error
    except RecursionError as error:
        message = "is nested too deeply"
        raise Unreadable(message) from error
    return document


def quote_value(value: object) -> str:
    """Return a value for a message: on one line, shortened, and without the user and password of a URL."""
    text = re.sub("://.*@", "://…@", json.dumps(value, ensure_ascii=False))
    return text if len(text) <= MAX_QUOTED_CHARACTERS else f"{text[:MAX_QUOTED_CHARACTERS]}…"


class _Loader(yaml.CSafeLoader):
    """Reads bare words as Helm's parser does: `y` and `1e3` are not text, but `1:30` and `2026-01-01` are."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as in the class it replaces
    bool_values = {**yaml.CSafeLoader.bool_values, "y": True, "n": False}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("bool", r"y|Y|[yY]es|YES|[oO]n|ON|[tT]rue|TRUE|n|N|[nN]o|NO|[oO]ff|OFF|[fF]alse|FALSE", "yYnNtTfFoO"),
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("int", r"[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9_]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan|\.NaN", "-+0123456789."),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _nodes(loader: _Loader) -> Iterator[yaml.Node]:
    while loader.check_node():
        node = loader.get_node()
        if node and node.value != "":  # not only a line of dashes
            yield node


def _construct(loader: _Loader, node: yaml.Node, path: Key, document: Document) -> Any:  # noqa: ANN401 - any YAML
    """Return the node's value; each value has a path of its own, so that an alias that multiplies itself is noticed."""
    line = node.start_mark.line + 1
    document.lines[path] = line
    if len(document.lines) > MAX_VALUES:
        message = f"contains more than {MAX_VALUES} values, counting each use of an alias"
        raise Unreadable(message)
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*path, index), document) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _construct_mapping(loader, node, path, document)
    try:
        value = loader.construct_object(node)
    except (yaml.YAMLError, ValueError):
        value = node
    if not isinstance(value, str | int | float | None) or (isinstance(value, float) and not math.isfinite(value)):
        message = f"{quote_value(node.value)} with the tag {quote_value(node.tag)} is not a plain value"
        raise Unreadable(message, line)
    return value


def _construct_mapping(loader: _Loader, node: yaml.MappingNode, path: Key, document: Document) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = key_node.value
        if not isinstance(key_node, yaml.ScalarNode):
            message = "a key is a list or a mapping; write text"
            raise Unreadable(message, line)
        if key_node.tag == "tag:yaml.org,2002:merge":
            sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            for source in sources:
                if not isinstance(source, yaml.MappingNode):
                    message = "<< needs a mapping or a list of mappings"
                    raise Unreadable(message, line)
                merged = {**_construct_mapping(loader, source, path, document), **merged}
            continue
        if key in mapping:
            message = f"{quote_value(key)} appears twice; write each key once"
            raise Unreadable(message, line)
        mapping[key] = _construct(loader, value_node, (*path, key), document)
        document.lines[(*path, key)] = line
    return {**merged, **mapping}
