"""The command line as people use it, good input and awful."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import yaml
from registry_cache import cli
from registry_cache.regenerate import REPOSITORY, generated

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
        pytest.param(b"caches: []\ncaches: []\n", "line 2: caches is there already", id="key-twice"),
        pytest.param(b"\xff\xfe\x00", "is not UTF-8", id="not-utf-8"),
        pytest.param(b"? [a]\n: b\n", "line 1: a key is a list or a mapping", id="key-a-list"),
        pytest.param(b"x: !!python/object:os.system {}\n", "x: is not known here", id="tag-on-mapping"),
        pytest.param(b"x: !!int word\n", "is no plain value", id="tag"),
        pytest.param(b"- 1\n", "[1] is not a mapping with the key caches", id="list"),
        pytest.param(b"word\n", '"word" is not a mapping with the key caches', id="word"),
        pytest.param(b"x" * 10_000_000, "has 10000000 bytes", id="large"),
        pytest.param(b"[" * 100_000, "is not YAML", id="deep"),
        pytest.param(
            b"a: &a [x,x,x,x,x,x,x,x,x,x]\n"
            + b"".join(
                f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n".encode()
                for a, b in zip("abcdefgh", "bcdefghi", strict=True)
            ),
            "holds more than 100000 values",
            id="billion-laughs",
        ),
    ],
)
def test_awful_file_gets_a_clear_answer_soon(
    tmp_path: Path, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(content)
    start = time.monotonic()
    assert cli.main(["validate", str(path)]) == 1
    assert time.monotonic() - start < 20, "2 s are expected"
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert str(path) in captured.err


@pytest.mark.parametrize("content", ["\ufeff" + GOOD, GOOD.replace("\n", "\r\n")], ids=["bom", "crlf"])
def test_what_windows_writes_is_read(tmp_path: Path, content: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(content.encode())
    assert cli.main(["validate", str(path)]) == 0


def test_anchors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("caches:\n  - {upstream: a, volume: &v {size: 1Gi}}\n  - {upstream: b, volume: *v}\n")
    assert cli.main(["validate", str(path)]) == 0


def test_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", str(tmp_path / "nowhere.yaml")]) == 1
    assert "cannot be read: No such file" in capsys.readouterr().err


def test_wrong_usage_exits_with_2() -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["generate"])
    assert ended.value.code == 2


def test_module_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "registry_cache", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY / "generator")
    assert "exit codes" in done.stdout


def test_installed_package_brings_its_chart(tmp_path: Path) -> None:
    """As `pip install .` does, into a folder of its own, away from the repository."""
    target = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(REPOSITORY)]
    subprocess.run(install, check=True, capture_output=True)
    output = tmp_path / "caches"
    command = [sys.executable, "-m", "registry_cache", "generate", str(EXAMPLES[0]), "--output", str(output)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(target)}, cwd=tmp_path)
    generate(EXAMPLES[0], tmp_path / "here" / "caches")
    assert content(output) == content(tmp_path / "here" / "caches")


def generate(document: Path, output: Path, *arguments: str) -> int:
    return cli.main(["generate", str(document), "--output", str(output), *arguments])


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_generated_chart_has_the_configuration_as_its_defaults(tmp_path: Path) -> None:
    assert generate(EXAMPLES[0], tmp_path / "my-caches") == 0
    chart = yaml.safe_load((tmp_path / "my-caches" / "Chart.yaml").read_text())
    values = yaml.safe_load((tmp_path / "my-caches" / "values.yaml").read_text())
    assert chart["name"] == "my-caches"
    assert values["caches"] == yaml.safe_load(EXAMPLES[0].read_text())["caches"]
    assert values["node"]["enabled"] is True
    readme = (tmp_path / "my-caches" / "README.md").read_text()
    assert "| registry.k8s.io | https://registry.k8s.io | 5Gi | the cluster's default | 720h | none |" in readme
    assert cli.main(["validate", str(tmp_path / "my-caches" / "values.yaml")]) == 0


def test_values_beside_the_caches_reach_the_generated_chart(tmp_path: Path) -> None:
    scenario = REPOSITORY / "ci" / "everything-values.yaml"
    assert generate(scenario, tmp_path / "out") == 0
    written = yaml.safe_load((tmp_path / "out" / "values.yaml").read_text())
    assert written == yaml.safe_load(scenario.read_text())


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    generate(EXAMPLES[0], tmp_path / "one" / "caches")
    generate(EXAMPLES[0], tmp_path / "two" / "caches")
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_second_call_leaves_nothing_stale(tmp_path: Path) -> None:
    output = tmp_path / "caches"
    generate(EXAMPLES[0], output)
    before = content(output)
    (output / "templates" / "stale.yaml").write_text("stale")
    assert generate(EXAMPLES[0], output) == 0
    assert content(output) == before
    assert [path.name for path in tmp_path.iterdir()] == ["caches"]


def test_foreign_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "caches"
    output.mkdir()
    (output / "mine").write_text("mine")
    assert generate(EXAMPLES[0], output) == 1
    assert "is not a chart that registry-cache generate made" in capsys.readouterr().err
    assert content(output) == {"mine": b"mine"}


def test_bad_document_changes_nothing(tmp_path: Path) -> None:
    output = tmp_path / "caches"
    generate(EXAMPLES[0], output)
    before = content(output)
    bad = tmp_path / "bad.yaml"
    bad.write_text("caches: []")
    assert generate(bad, output) == 1
    assert content(output) == before


def test_name_that_is_no_charts_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(EXAMPLES[0], tmp_path / "My_Caches") == 1
    assert "is not a chart's name" in capsys.readouterr().err
    assert generate(EXAMPLES[0], tmp_path / "My_Caches", "--name", "my-caches") == 0


def test_unwritable_place_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert generate(EXAMPLES[0], tmp_path / "file" / "caches") == 1
    assert "cannot be written: " in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(generated()))
def test_generated_files_are_committed_as_they_are_made(name: str) -> None:
    assert (REPOSITORY / name).read_text() == generated()[name], "run make generate"
