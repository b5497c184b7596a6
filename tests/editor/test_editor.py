"""What an editor makes of a values file with values.schema.json alone: Red Hat's yaml-language-server is asked.

It is the one behind YAML in Visual Studio Code, Neovim, Emacs and others. Here a program takes the editor's part and
speaks the same protocol with it (Language Server Protocol 3.17).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import pytest
from lsprotocol import types as lsp
from machine import tools
from machine.paths import REPOSITORY
from pygls.lsp.client import LanguageClient
from registry_cache.model.node_program import Probe
from registry_cache.model.registry_config import Cache

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

Answer = TypeVar("Answer")

# The line by which a document names its schema, for every editor with this server.
MODELINE = f"# yaml-language-server: $schema={(REPOSITORY / 'values.schema.json').as_uri()}\n"
# Otherwise the server downloads lists of schemas, and one of them could match the name of a file.
SETTINGS = {"schemaStore": {"enable": False}, "kubernetesCRDStore": {"enable": False}}
# Seconds for one answer; it takes less than one.
PATIENCE = 20.0
CURSOR = "|"


class Editor:
    """An editor that shows one document after the other."""

    def __init__(self, runner: asyncio.Runner) -> None:
        """Start the server."""
        self._runner = runner
        self._client = LanguageClient("test", "1")
        self._published: dict[str, asyncio.Queue[list[lsp.Diagnostic]]] = {}

        @self._client.feature(lsp.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)
        def take(published: lsp.PublishDiagnosticsParams) -> None:
            self._published[published.uri].put_nowait(list(published.diagnostics))

        @self._client.feature(lsp.WORKSPACE_CONFIGURATION)
        def answer(asked: lsp.ConfigurationParams) -> list[object]:
            return [SETTINGS if item.section == "yaml" else {} for item in asked.items]

        node, server = tools.yaml_language_server()
        self._wait(self._client.start_io(str(node), str(server), "--stdio"))
        capabilities = lsp.ClientCapabilities(workspace=lsp.WorkspaceClientCapabilities(configuration=True))
        self._wait(self._client.initialize_async(lsp.InitializeParams(capabilities=capabilities)))
        self._client.initialized(lsp.InitializedParams())

    def close(self) -> None:
        self._wait(self._client.shutdown_async(None))
        self._client.exit(None)
        self._wait(self._client.stop())

    def problems(self, text: str) -> list[tuple[int, str]]:
        """Return what is underlined in a document: the numbers of lines, from 0, and the messages."""
        uri = self._open(text)
        found = self._wait(self._published[uri].get())
        return [(diagnostic.range.start.line, diagnostic.message) for diagnostic in found]

    def offers(self, text: str) -> list[str]:
        """Return the completions at the cursor."""
        uri, place = self._open_at_cursor(text)
        answer = self._wait(self._client.text_document_completion_async(lsp.CompletionParams(uri, place)))
        assert isinstance(answer, lsp.CompletionList)
        return [item.label for item in answer.items]

    def hover(self, text: str) -> str:
        """Return the description of the field under the cursor."""
        uri, place = self._open_at_cursor(text)
        answer = self._wait(self._client.text_document_hover_async(lsp.HoverParams(uri, place)))
        assert answer is not None
        assert isinstance(answer.contents, lsp.MarkupContent)
        return answer.contents.value

    def _open(self, text: str) -> str:
        uri = f"file:///document-{len(self._published)}.yaml"
        self._published[uri] = asyncio.Queue()
        document = lsp.TextDocumentItem(uri, "yaml", 1, text)
        self._client.text_document_did_open(lsp.DidOpenTextDocumentParams(document))
        return uri

    def _open_at_cursor(self, text: str) -> tuple[lsp.TextDocumentIdentifier, lsp.Position]:
        before, after = text.split(CURSOR)
        place = lsp.Position(before.count("\n"), len(before.rpartition("\n")[2]))
        return lsp.TextDocumentIdentifier(self._open(before + after)), place

    def _wait(self, answer: Awaitable[Answer]) -> Answer:
        async def within_deadline() -> Answer:
            return await asyncio.wait_for(answer, PATIENCE)

        return self._runner.run(within_deadline())


@pytest.fixture(scope="module")
def editor() -> Iterator[Editor]:
    tools.ensure_yaml_language_server()
    with asyncio.Runner() as runner:
        made = Editor(runner)
        yield made
        made.close()


@pytest.mark.parametrize(
    "path", ["examples/registry-config.yaml", "chart/values.yaml", "chart/ci/everything-values.yaml"]
)
def test_good_document_has_nothing_underlined(editor: Editor, path: str) -> None:
    text = (REPOSITORY / path).read_text()
    if path == "chart/values.yaml":  # the chart's defaults name no upstream, because only the user knows it
        text = text.replace("caches: []", "caches: [{upstream: docker.io}]")
    assert editor.problems(MODELINE + text) == []


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        pytest.param("    volumes: {size: 5Gi}\n", 3, "volumes is not allowed", id="unknown-field"),
        pytest.param("    volume: 5Gi\n", 3, "Expected one of object, null", id="wrong-type"),
        pytest.param(
            "    garbageCollection:\n      ttl: 7d\n",
            4,
            "not a duration in hours, minutes and seconds",
            id="no-duration",
        ),
        pytest.param("  - volume: {size: 5Gi}\n", 3, 'Missing property "upstream"', id="missing-upstream"),
        pytest.param("nodeProgram:\n  enabled: 1\n", 4, 'Expected "boolean"', id="wrong-type-beside-the-caches"),
    ],
)
def test_only_the_wrong_line_is_underlined(editor: Editor, text: str, line: int, said: str) -> None:
    problems = editor.problems(f"{MODELINE}caches:\n  - upstream: docker.io\n{text}")
    assert [number for number, _ in problems] == [line], problems
    assert said in problems[0][1]


def test_fields_and_their_values_are_offered(editor: Editor) -> None:
    fields = editor.offers(f"{MODELINE}caches:\n  - {CURSOR}")
    assert set(fields) - {"object"} == set(Cache.model_fields), "and an entry as a whole"
    assert "upstream" not in editor.offers(f"{MODELINE}caches:\n  - upstream: docker.io\n    {CURSOR}"), "it is there"
    assert editor.offers(f"{MODELINE}nodeProgram:\n  probe:\n    {CURSOR}") == list(Probe.model_fields)
    policies = editor.offers(f"{MODELINE}images:\n  nginx:\n    pullPolicy: {CURSOR}")
    assert policies == ["Always", "IfNotPresent", "Never"]


def test_old_name_of_a_value_is_underlined_and_not_offered(editor: Editor) -> None:
    (problem,) = editor.problems(f"{MODELINE}caches:\n  - upstream: docker.io\nnode:\n  enabled: true\n")
    assert problem == (3, "renamed to nodeProgram")
    offers = editor.offers(f"{MODELINE}caches:\n  - upstream: docker.io\n{CURSOR}")
    assert "nodeProgram" in offers
    assert not {"cache", "node", "test", "upstreams"} & set(offers)


def test_field_under_the_cursor_is_explained(editor: Editor) -> None:
    text = editor.hover(f"{MODELINE}caches:\n  - garbageCollection:\n      tt{CURSOR}l: 168h\n")
    assert "How long content is kept after its last use, as a Go duration." in text
