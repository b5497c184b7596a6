"""Reads a YAML document as strictly as Gardener and as Helm understands it, and remembers the line of each value.

A TOML file is read too, so that it can be told what it is. No error repeats more of a file than a key, because any part
of a file that is not what it should be may be a password.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import sys
import tomllib
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
TOO_MANY_VALUES = f"contains more than {MAX_VALUES} values, counting each use of an alias"


MAX_BITS = 64
STANDARD_INPUT = "-"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_TABLE = re.compile(r"^[ \t]*\[[^\]\n]+\][ \t]*(#.*)?$", re.MULTILINE)
# A hosts.toml may have nothing but the names of its hosts.
_ASSIGNMENT = re.compile(r"^[ \t]*([\w.\"'/-]+[ \t]*=|\[host\.[\"'])", re.MULTILINE)
_TEMPLATE = "; it is a template: give the file that is made from it"
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


class Unreadable(Exception):
    """The file is neither YAML nor TOML; `text` is the reason, `line` is its line, if there is one."""

    def __init__(self, text: str, line: int | None = None) -> None:
        """Store the reason and the line."""
        super().__init__(text if line is None else f"line {line}: {text}")
        self.text = text
        self.line = line


@dataclass
class Document:
    """A document's content, and the line of each value by its path, as `("caches", 0, "upstream")`.

    It may be a part of a larger document, at the path `inside`. Its own paths do not begin with that. `name` is the
    name of its file. A file of several documents has `documents` and no content of its own.
    """

    content: Any
    lines: dict[Key, int] = field(default_factory=dict)
    inside: Key = ()
    name: str = "FILE"
    documents: list[Document] = field(default_factory=list)

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
        return Document(content, lines, self.inside + path, self.name)


def join_documents(files: list[Document]) -> Document:
    """Return the documents of several files, as if they were in one."""
    return Document(None, documents=[one for file in files for one in file.documents or [file]])


def read(name: str) -> Document:
    """Read a file, or standard input where the name is `-`.

    Raises:
        Unreadable: The file does not exist, is empty or too large, is neither YAML nor TOML, or has a key twice.
    """
    try:
        with nullcontext(sys.stdin.buffer) if name == STANDARD_INPUT else Path(name).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        message = f"cannot be read: {error.strerror if isinstance(error, OSError) else error}"
        raise Unreadable(message) from error
    return parse(raw, name)


def parse(raw: bytes, name: str = "FILE") -> Document:
    """Read the content of a file; errors as with `read`."""
    if len(raw) > MAX_BYTES:
        message = f"is larger than {MAX_BYTES} bytes"
        raise Unreadable(message)
    text = _decode(raw)
    try:
        documents = _parse_yaml(text, name)
    except (Unreadable, yaml.YAMLError, RecursionError) as error:
        toml = _parse_toml(text)
        if toml is not None:
            return Document(toml, name=name)
        raise _describe_error(error, text) from error
    if len(documents) == 1 and not isinstance(documents[0].content, dict):
        toml = _parse_toml(text)
        if toml is not None:
            return Document(toml, name=name)
    if not documents:
        message = "is empty"
        raise Unreadable(message)
    return documents[0] if len(documents) == 1 else Document(None, name=name, documents=documents)


def quote_example(value: object) -> str:
    """Return a value of ours for a message."""
    return json.dumps(value, ensure_ascii=False)


def quote_value(value: object) -> str:
    """Return a value of a document that may be wrong, for a message, as `shorten_value` does.

    Only the kind of a list or a mapping is told, because anything may be in it.
    """
    if isinstance(value, list | dict) and value:
        return "a list" if isinstance(value, list) else "a mapping"
    return shorten_value(value)


def shorten_value(value: object) -> str:
    """Return a value on one line, shortened, and without what precedes an @."""
    text = _hide_login(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= MAX_QUOTED_CHARACTERS else f"{text[:MAX_QUOTED_CHARACTERS]}…"


def _hide_login(text: str) -> str:
    """Return a text without what precedes its last @, except a scheme; the @ of an image's digest is another one."""
    at = text.rfind("@")
    while at >= 0 and re.match("sha[0-9]+:", text[at + 1 : at + 10]):
        at = text.rfind("@", 0, at)
    if at < 0:
        return text
    scheme = re.match('"([A-Za-z]+://)?', text)
    return f"{scheme[0] if scheme else ''}…{text[at:]}"


def _decode(raw: bytes) -> str:
    if raw.startswith(_WIDE):
        message = "is not UTF-8 but UTF-16, which Windows PowerShell writes; save it as UTF-8"
        raise Unreadable(message)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"is not UTF-8: byte {error.start} is {raw[error.start]:#x}"
        raise Unreadable(message) from error


def _parse_toml(text: str) -> dict[str, Any] | None:
    """Return the content of a TOML file, or None if it is something else.

    Raises:
        Unreadable: The file has tables and keys as TOML has them, but is not TOML.
    """
    if not _ASSIGNMENT.search(text):
        return None
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        if not _TABLE.search(text):
            return None
        line = re.search("at line ([0-9]+)", str(error))
        message = f"is not TOML{_TEMPLATE if '{{' in text else ''}"
        raise Unreadable(message, int(line[1]) if line else None) from error


def _parse_yaml(text: str, name: str) -> list[Document]:
    loader = _Loader(text)
    documents = []
    values = 0
    for node in _nodes(loader):
        document = Document(None, name=name)
        document.content = _construct(loader, node, (), document)
        values += len(document.lines)
        if values > MAX_VALUES:
            raise Unreadable(TOO_MANY_VALUES)
        if document.content is not None:
            documents.append(document)
    return documents


def _describe_error(error: Unreadable | yaml.YAMLError | RecursionError, text: str) -> Unreadable:
    """Return what is wrong, without the name of an anchor, which may be a password that begins with `*`."""
    if isinstance(error, Unreadable):
        return error
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        problem = str(error.problem)
        line = text.splitlines()[mark.line : mark.line + 1] if mark else []
        has_tab = any("\t" in one[: len(one) - len(one.lstrip())] for one in line)
        hint = "; indent with spaces, not with tabs" if has_tab else _TEMPLATE if "{{" in text else ""
        if "anchor" in problem or "alias" in problem:
            problem = problem.partition(" '")[0]
        return Unreadable(f"is not YAML: {problem}{hint}", mark.line + 1 if mark else None)
    if isinstance(error, yaml.reader.ReaderError):
        return Unreadable(f"is not YAML: {error.reason}: {error.character!r}")
    return Unreadable("is nested too deeply")


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
        raise Unreadable(TOO_MANY_VALUES)
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*path, index), document) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _construct_mapping(loader, node, path, document)
    try:
        value = loader.construct_object(node)
    except (yaml.YAMLError, ValueError):
        value = node
    is_number = node.tag in _NUMBERS
    if is_number and (not isinstance(value, int | float) or not _is_finite(value)):
        message = "a number that is too large or not finite is not a plain value"
        raise Unreadable(message, line)
    if not isinstance(value, str | int | float | None):
        message = f"a value with the tag {quote_value(node.tag)} is not a plain value"
        raise Unreadable(message, line)
    return value


def _is_finite(number: float) -> bool:
    """Return whether a number is one that Helm can read too, which reads numbers of 64 bits."""
    return math.isfinite(number) if isinstance(number, float) else number.bit_length() <= MAX_BITS


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
