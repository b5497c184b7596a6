"""The command line as people use it, good input and awful."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from registry_cache import cli
from registry_cache.regenerate import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.yaml"))
SCENARIOS = sorted((REPOSITORY / "ci").glob("*-values.yaml"))
GOOD = "caches:\n  - upstream: docker.io\n"


@pytest.mark.parametrize("path", [*EXAMPLES, *SCENARIOS], ids=lambda path: path.name)
def test_good_file_prints_nothing(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", str(path)]) == 0
    assert capsys.readouterr() == ("", "")


def test_document_of_the_readme_is_good(tmp_path: Path) -> None:
    (document,) = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    path = tmp_path / "registry-config.yaml"
    path.write_text(document)
    assert cli.main(["validate", str(path)]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"# nothing\n", "is empty", id="comment"),
        pytest.param(b"a: 1\n---\nb: 2\n", "holds 2 documents", id="documents"),
        pytest.param(b"caches:\n\t- upstream: x\n", "line 2: is not YAML", id="tab"),
        pytest.param(b"caches: [\n", "is not YAML", id="unclosed"),
        pytest.param(b"caches: []\ncaches: []\n", 'line 2: "caches" is there already', id="key-twice"),
        pytest.param(b"\xff\xfe\x00", "is not UTF-8", id="not-utf-8"),
        pytest.param(b"? [a]\n: b\n", "line 1: a key is a list or a mapping", id="key-a-list"),
        pytest.param(b"x: !!python/object:os.system {}\n", "x: is not known here", id="tag-on-mapping"),
        pytest.param(b"x: !!int word\n", "is no plain value", id="tag"),
        pytest.param(b"- 1\n", "[1] is not a mapping with the key caches", id="list"),
        pytest.param(b"word\n", '"word" is not a mapping with the key caches', id="word"),
        pytest.param(b"x" * 10_000_000, "has more than 1000000 bytes", id="large"),
        pytest.param(b"[" * 100_000, "is not YAML", id="deep"),
        pytest.param(b"a: &a [*a]\n", "is nested too deeply", id="in-itself"),
        pytest.param(b"---\n---\n", "is empty", id="dashes"),
        pytest.param(b"x: \x01\n", "is not YAML", id="control-character"),
        pytest.param(b"x: .inf\n", "is no plain value", id="infinity"),
        pytest.param(b'"a\\nb": 1\n', r'["a\nb"]: is not known here', id="key-of-two-lines"),
        pytest.param(b"caches: [" + b"1," * 15_000 + b"]", "caches[14999]: 1 is not a mapping", id="many-problems"),
        pytest.param(b"caches: [{volume: {size: " + b"1" * 900_000 + b"x}}]", "caches[0].volume.size", id="digits"),
        pytest.param(b"caches: [{upstream: " + b"a." * 450_000 + b"!}]", "has 900001 characters", id="labels"),
        pytest.param(b"node: {dialTimeout: " + b"0h" * 450_000 + b"}", "node.dialTimeout", id="duration"),
        pytest.param(b"node: {registryDirectory: '" + b"/a." * 300_000 + b":'}", "registryDirectory", id="path"),
        pytest.param(
            b"a: &a [x,x,x,x,x,x,x,x,x,x]\n"
            + b"".join(
                f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n".encode()
                for a, b in zip("abcdefgh", "bcdefghi", strict=True)
            ),
            "holds more than 20000 values",
            id="billion-laughs",
        ),
    ],
)
def test_awful_file_gets_a_clear_answer_soon(
    tmp_path: Path, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(content)
    start = time.process_time()
    assert cli.main(["validate", str(path)]) == 1
    assert time.process_time() - start < 2
    captured = capsys.readouterr()
    assert all(line.startswith(f"{path}: ") for line in captured.err.splitlines()), "one line a problem"
    assert captured.out == ""
    assert message in captured.err
    assert str(path) in captured.err


@pytest.mark.parametrize("content", ["\ufeff" + GOOD, GOOD.replace("\n", "\r\n")], ids=["bom", "crlf"])
def test_what_windows_writes_is_read(tmp_path: Path, content: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(content.encode())
    assert cli.main(["validate", str(path)]) == 0


def test_file_without_end_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", "/dev/zero"]) == 1
    assert "has more than" in capsys.readouterr().err


def test_every_problem_is_a_line_with_file_line_and_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("caches:\n  - upstream: Docker.io\n    volume:\n      size: 0\n")
    assert cli.main(["validate", str(path)]) == 1
    assert [line.partition(" is not ")[0] for line in capsys.readouterr().err.splitlines()] == [
        f'{path}: line 2: caches[0].upstream: "Docker.io"',
        f"{path}: line 4: caches[0].volume.size: 0",
    ]


def test_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", str(tmp_path / "nowhere.yaml")]) == 1
    assert "cannot be read: No such file" in capsys.readouterr().err


def test_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", str(tmp_path)]) == 1
    assert "cannot be read: Is a directory" in capsys.readouterr().err


def test_wrong_usage_exits_with_2() -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["generate"])
    assert ended.value.code == 2


def test_module_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "registry_cache", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY / "generator")
    assert "exit codes" in done.stdout
