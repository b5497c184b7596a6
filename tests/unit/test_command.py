"""The command line as people use it, with valid and with bad input."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from registry_cache import cli
from registry_cache.regenerate import REPOSITORY

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.yaml"))
SCENARIOS = sorted((REPOSITORY / "chart" / "ci").glob("*-values.yaml"))
GOOD = "caches:\n  - upstream: docker.io\n"


@pytest.mark.parametrize("path", [*EXAMPLES, *SCENARIOS], ids=lambda path: path.name)
def test_valid_file_prints_notes_at_most(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Notes say what a document of Gardener's means here."""
    assert cli.main(["validate", str(path)]) == 0
    printed = capsys.readouterr()
    notes = printed.err.splitlines()
    assert printed.out == ""
    assert all(note.startswith(f"{path}: note: ") for note in notes)
    assert bool(notes) == (path.name in ("registry-config-v1alpha1.yaml", "shoot.yaml"))


def test_document_in_the_readme_is_valid(tmp_path: Path) -> None:
    (document,) = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    path = tmp_path / "registry-config.yaml"
    path.write_text(document)
    assert cli.main(["validate", str(path)]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"# nothing\n", "is empty", id="comment"),
        pytest.param(b"a: 1\n---\nb: 2\n", "contains 2 documents", id="documents"),
        pytest.param(b"caches:\n\t- upstream: x\n", "line 2: is not YAML", id="tab"),
        pytest.param(b"caches: [\n", "is not YAML", id="unclosed"),
        pytest.param(b"caches: []\ncaches: []\n", 'line 2: "caches" appears twice', id="key-twice"),
        pytest.param(b"\xff\xfe\x00", "is not UTF-8", id="not-utf-8"),
        pytest.param(b"? [a]\n: b\n", "line 1: a key is a list or a mapping", id="key-a-list"),
        pytest.param(b"x: !!python/object:os.system {}\n", "x: is not a known key", id="tag-on-mapping"),
        pytest.param(b"x: !!int word\n", "is not a plain value", id="tag"),
        pytest.param(b"- 1\n", "a list is not a mapping with the key caches", id="list"),
        pytest.param(b"word\n", "text is not a mapping with the key caches", id="word"),
        pytest.param(b"x" * 10_000_000, "is larger than 1000000 bytes", id="large"),
        pytest.param(b"[" * 100_000, "is not YAML", id="deep"),
        pytest.param(b"a: &a [*a]\n", "is nested too deeply", id="in-itself"),
        pytest.param(b"---\n---\n", "is empty", id="dashes"),
        pytest.param(b"---\nnull\n...\n", "is empty", id="null"),
        pytest.param(b"a:\n\t- b\n", "indent with spaces, not with tabs", id="tab-in-front-of-a-dash"),
        pytest.param(b"a: 0x" + b"f" * 5000, "a number that is too large", id="digits-of-a-number"),
        pytest.param(b"a: " + b"9" * 5000, "a number that is too large", id="decimal-digits-of-a-number"),
        pytest.param(b"a: 1e999", "a number that is too large", id="large-exponent"),
        pytest.param("caches: []".encode("utf-16"), "is not UTF-8 but UTF-16", id="utf-16"),
        pytest.param("caches: []".encode("utf-16-be"), "is not YAML", id="utf-16-without-mark"),
        pytest.param(b"# f\xfcr\n", "is not UTF-8: byte 3 is 0xfc", id="latin-1"),
        pytest.param(b"\x1f\x8b\x08\x00", "is not UTF-8", id="gzip"),
        pytest.param(b"version = 2\n[plugins]\n{{ template }}\n", "is not TOML; it is a template", id="toml-template"),
        pytest.param(b"caches:\n{{- range . }}\n- x\n", "it is a template: give the file", id="template"),
        pytest.param(b"one: {}\ntwo: {}\n", "one, two are not known keys; the known keys are", id="unknown-keys"),
        pytest.param(b"caches: [docker.io]", 'is not a mapping; write {"upstream": "docker.io"}', id="host-alone"),
        pytest.param(b"kind: List\nitems: [&a {spec: {}}," + b"*a," * 6000 + b"]", "6001 documents", id="alias-list"),
        pytest.param(b"{kind: List, items: [" * 300 + b"]}" * 300, "is nested too deeply", id="lists-in-lists"),
        pytest.param(b"{a: " * 100 + b"}" * 100, "a: is not a known key", id="mappings-in-mappings"),
        pytest.param(b"caches: [{upstream: []}]\nupstreamSettings: {a.b: {}}", "caches[0].upstream", id="list-as-host"),
        pytest.param(b"x: \x01\n", "is not YAML", id="control-character"),
        pytest.param(b"x: .inf\n", "is not a plain value", id="infinity"),
        pytest.param(b'"a\\nb": 1\n', r'["a\nb"]: is not a known key', id="key-of-two-lines"),
        pytest.param(b"caches: [" + b"1," * 15_000 + b"]", "caches[14999]: 1 is not a mapping", id="many-problems"),
        pytest.param(b"caches: [{volume: {size: " + b"1" * 900_000 + b"x}}]", "caches[0].volume.size", id="digits"),
        pytest.param(b"caches: [{upstream: " + b"a." * 450_000 + b"!}]", "has 900001 characters", id="labels"),
        pytest.param(b"nodeProgram: {dialTimeout: " + b"0h" * 450_000 + b"}", "nodeProgram.dialTimeout", id="duration"),
        pytest.param(b"nodeProgram: {registryDirectory: '" + b"/a." * 300_000 + b":'}", "registryDirectory", id="path"),
        pytest.param(
            b"a: &a [x,x,x,x,x,x,x,x,x,x]\n"
            + b"".join(
                f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n".encode()
                for a, b in zip("abcdefgh", "bcdefghi", strict=True)
            ),
            "contains more than 20000 values",
            id="billion-laughs",
        ),
    ],
)
def test_unreadable_file_soon_gets_a_clear_error(
    tmp_path: Path, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(content)
    start = time.process_time()
    assert cli.main(["validate", str(path)]) == 1
    # Ten times what the slowest file takes. A time that grows faster than the file would be far longer.
    assert time.process_time() - start < 10
    captured = capsys.readouterr()
    assert all(line.startswith(f"{path}: ") for line in captured.err.splitlines()), "one line a problem"
    assert captured.out == ""
    assert message in captured.err
    assert str(path) in captured.err


@pytest.mark.parametrize("content", ["\ufeff" + GOOD, GOOD.replace("\n", "\r\n")], ids=["bom", "crlf"])
def test_files_from_windows_are_read(tmp_path: Path, content: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(content.encode())
    assert cli.main(["validate", str(path)]) == 0


def test_endless_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", "/dev/zero"]) == 1
    assert "is larger than" in capsys.readouterr().err


def test_every_problem_is_a_line_with_file_line_and_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("caches:\n  - upstream: Docker.io\n    volume:\n      size: 0\n")
    assert cli.main(["validate", str(path)]) == 1
    assert [line.partition(" is not ")[0] for line in capsys.readouterr().err.splitlines()] == [
        f'{path}: line 2: caches[0].upstream: "Docker.io"',
        f"{path}: line 4: caches[0].volume.size: 0",
    ]


@pytest.mark.parametrize("command", [["validate"], ["convert"], ["plan", "-"], ["discover", "--values"]])
def test_name_that_leads_to_no_file_is_an_error_of_every_command(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").write_text(GOOD)
    for name in ("loop", "dangling", "file/x", ".", "x" * 300, "a\0b"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(GOOD.encode())))
        assert cli.main([*command, f"{tmp_path}/{name}"]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "cannot be read: " in captured.err


def test_link_to_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(GOOD)
    (tmp_path / "link").symlink_to("file")
    assert cli.main(["validate", str(tmp_path / "link")]) == 0


def test_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", str(tmp_path / "nowhere.yaml")]) == 1
    assert "cannot be read: No such file" in capsys.readouterr().err


def test_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", str(tmp_path)]) == 1
    assert "cannot be read: Is a directory" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["frob"], ["generate"], ["validate"], ["plan", "one"]])
def test_wrong_usage_has_its_own_exit_code(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 64
    assert "usage: registry-cache" in capsys.readouterr().err


def test_module_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "registry_cache", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY / "generator")
    assert "exit codes" in done.stdout


@pytest.mark.parametrize(
    "content",
    ["kind: List\nitems: [{}, {}]\n", "apiVersion: v1\nkind: List\nitems: []\n", "kind: List\n"],
)
def test_list_of_documents_is_reported(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(content)
    assert cli.main(["validate", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"line \d: kind: this is a List of \d documents; write each of them into a file of its own", line)


def test_problems_of_all_files_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, good = (tmp_path / name for name in ("one.yaml", "two.yaml", "good.yaml"))
    one.write_text("caches: []\n")
    two.write_text("caches: [\n")
    good.write_text(GOOD)
    assert cli.main(["validate", str(one), str(good), str(two), str(tmp_path / "none")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(one), str(two), str(tmp_path / "none")]


def test_problems_for_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("caches:\n  - upstream: Docker.io\n")
    assert cli.main(["validate", "--output", "json", str(path), str(tmp_path / "none")]) == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    assert json.loads(captured.out) == [
        {
            "file": str(path),
            "line": 2,
            "path": "caches[0].upstream",
            "problem": '"Docker.io" is not the host of a registry in lower case, optionally with a port; write '
            '"docker.io"',
        },
        {
            "file": str(tmp_path / "none"),
            "line": None,
            "path": "",
            "problem": "cannot be read: No such file or directory",
        },
    ]


def test_no_problem_is_an_empty_list_for_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(GOOD)
    assert cli.main(["validate", "--output=json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out) == []


def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Start the command as a process of its own."""
    command = [sys.executable, "-m", "registry_cache", *arguments]
    return subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, cwd=REPOSITORY / "generator"
    )


def test_standard_input_is_read_and_named() -> None:
    assert run("validate", "-", text=GOOD).returncode == 0
    refused = run("validate", "-", text="caches: []\n")
    assert refused.returncode == 1
    assert refused.stderr.startswith("standard input: line 1: caches: ")


def test_conversion_of_a_shoot_can_be_piped_into_validation() -> None:
    converted = run("convert", str(REPOSITORY / "examples" / "shoot.yaml"))
    assert run("validate", "-", text=converted.stdout).returncode == 0


def test_closed_output_causes_no_traceback() -> None:
    """As in `registry-cache completion bash | head -1`, with more text than a pipe can hold."""
    command = f"set -o pipefail; {sys.executable} -m registry_cache validate --output json - | head -1"
    text = "caches: [" + "1," * 15_000 + "]"
    done = subprocess.run(
        ["bash", "-c", command], input=text, capture_output=True, text=True, check=False, cwd=REPOSITORY / "generator"
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "[\n", "")


def test_interrupt_is_quiet() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "registry_cache", "validate", "/dev/stdin"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=REPOSITORY / "generator",
    )
    assert process.stdin is not None
    process.stdin.write(b"caches:\n")
    process.stdin.flush()
    deadline = time.monotonic() + 60
    while reads_from(process.pid) != "0" and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, b"")


def reads_from(process: int) -> str:
    """Return the descriptor of the pipe that a process is reading, or an empty string (man 5 proc)."""
    fields = Path(f"/proc/{process}/syscall").read_text().split()
    name = Path(f"/proc/{process}/fd/{int(fields[1], 16)}") if len(fields) > 1 and fields[0] == "0" else None
    return "0" if name is not None and name.exists() and "pipe:" in str(name.readlink()) else ""


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for command in ("validate", "convert", "generate", "plan", "discover", "completion"):
        assert command in script


def test_bash_completes(tmp_path: Path) -> None:
    """A real bash offers the candidates for `registry-cache ge` and for one of its options."""
    script = tmp_path / "completion"
    script.write_text(run("completion", "bash").stdout)
    ask = """
source "$1"
complete -p registry-cache | grep -q -- '-F _shtab_registry_cache'
for line in "registry-cache ge" "registry-cache generate --pa" "registry-cache validate --output j"; do
    COMP_WORDS=($line); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
    _shtab_registry_cache
    echo "${COMPREPLY[@]}"
done
"""
    done = subprocess.run(["bash", "-c", ask, "-", script], capture_output=True, text=True, check=True)
    assert [line.strip() for line in done.stdout.splitlines()] == ["generate", "--package", "json"]


@pytest.mark.parametrize("command", ["validate", "convert", "generate", "plan", "discover", "completion"])
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert re.search(rf"examples:\n(  .*\n)*  .*registry-cache {command}", text)
    assert "exit codes" in text
