"""`registry-cache generate`: the chart for a configuration, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from registry_cache import cli
from registry_cache.regenerate import REPOSITORY, generated

EXAMPLE = REPOSITORY / "examples" / "registry-config.yaml"


def generate(document: Path, output: Path, *arguments: str) -> int:
    return cli.main(["generate", str(document), "--output", str(output), *arguments])


def content(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "document.yaml"
    path.write_text(text)
    return path


def loaded(path: Path) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(path.read_text())
    return found


def test_installed_package_contains_the_chart(tmp_path: Path) -> None:
    """Like `pip install .`, but into a folder outside of the repository."""
    target = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(REPOSITORY)]
    subprocess.run(install, check=True, capture_output=True)
    output = tmp_path / "caches"
    command = [sys.executable, "-m", "registry_cache", "generate", str(EXAMPLE), "--output", str(output)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(target)}, cwd=tmp_path)
    generate(EXAMPLE, tmp_path / "here" / "caches")
    assert content(output) == content(tmp_path / "here" / "caches")


def test_chart_has_the_configuration_as_its_defaults(tmp_path: Path) -> None:
    assert generate(EXAMPLE, tmp_path / "my-caches") == 0
    values = yaml.safe_load((tmp_path / "my-caches" / "values.yaml").read_text())
    assert loaded(tmp_path / "my-caches" / "Chart.yaml")["name"] == "my-caches"
    assert values["caches"] == yaml.safe_load(EXAMPLE.read_text())["caches"]
    assert values["nodeProgram"]["enabled"] is True
    readme = (tmp_path / "my-caches" / "README.md").read_text()
    assert "| registry.k8s.io | https://registry.k8s.io | 5Gi | the cluster's default | 720h | none |" in readme
    assert cli.main(["validate", str(tmp_path / "my-caches" / "values.yaml")]) == 0


def test_values_are_merged_as_helm_merges_them(tmp_path: Path) -> None:
    """As with `helm install --values`, mappings are merged, null removes a default, and lists are replaced."""
    document = written(
        tmp_path,
        """
caches: [{upstream: docker.io}]
images:
  distribution: {tag: 3.1.1-alpine}
upstreamSettings: {docker.io: {caSecretName: authority}}
cachePods:
  resources: {distribution: {limits: {memory: 1Gi}, requests: {memory: 2Gi}}}
  nodeSelector: {kubernetes.io/os: null, pool: system}
nodeProgram: {tolerations: []}
monitoring: {dashboard: {labels: {team: platform}}}
""",
    )
    assert generate(document, tmp_path / "out") == 0
    values = yaml.safe_load((tmp_path / "out" / "values.yaml").read_text())
    assert values["images"]["distribution"]["repository"] == "library/registry"
    assert values["images"]["distribution"]["tag"] == "3.1.1-alpine"
    assert values["upstreamSettings"] == {"docker.io": {"caSecretName": "authority"}}
    resources = values["cachePods"]["resources"]
    assert resources["distribution"] == {"requests": {"cpu": "10m", "memory": "2Gi"}, "limits": {"memory": "1Gi"}}
    gate = {"requests": {"cpu": "10m", "memory": "50Mi"}, "limits": {"memory": "256Mi"}}
    assert resources["gate"] == gate
    assert values["cachePods"]["nodeSelector"] == {"pool": "system"}
    assert values["nodeProgram"]["tolerations"] == []
    assert values["monitoring"]["dashboard"]["labels"] == {
        "grafana_dashboard": "1",
        "dashboard.monitoring.gardener.cloud/shoot": "true",
        "team": "platform",
    }


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    generate(EXAMPLE, tmp_path / "one" / "caches")
    generate(EXAMPLE, tmp_path / "two" / "caches")
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_another_configuration_gets_another_version(tmp_path: Path) -> None:
    generate(EXAMPLE, tmp_path / "one")
    generate(written(tmp_path, "caches: [{upstream: docker.io}]"), tmp_path / "two")
    versions = {str(loaded(tmp_path / name / "Chart.yaml")["version"]) for name in ("one", "two")}
    assert len(versions) == 2
    assert {version.partition("+")[0] for version in versions} == {
        loaded(REPOSITORY / "chart" / "Chart.yaml")["version"]
    }


def test_package_of_the_same_input_has_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        assert generate(EXAMPLE, tmp_path / folder / "caches", "--package") == 0
    assert (tmp_path / "one" / "caches.tgz").read_bytes() == (tmp_path / "two" / "caches.tgz").read_bytes()
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["caches.tgz"]


def test_package_replaces_an_earlier_one(tmp_path: Path) -> None:
    generate(EXAMPLE, tmp_path / "caches", "--package")
    before = (tmp_path / "caches.tgz").read_bytes()
    assert generate(written(tmp_path, "caches: [{upstream: docker.io}]"), tmp_path / "caches", "--package") == 0
    assert (tmp_path / "caches.tgz").read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["caches.tgz", "document.yaml"]


@pytest.mark.parametrize("foreign", [b"mine", b"\x1f\x8b\x08\x00broken", b""])
def test_foreign_file_is_not_replaced_by_a_package(
    foreign: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "caches.tgz").write_bytes(foreign)
    assert generate(EXAMPLE, tmp_path / "caches", "--package") == 1
    assert "caches.tgz was not written by registry-cache generate" in capsys.readouterr().err
    assert (tmp_path / "caches.tgz").read_bytes() == foreign


def test_foreign_archive_is_not_replaced_by_a_package(tmp_path: Path) -> None:
    archive = tmp_path / "caches.tgz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(EXAMPLE, "mine/Chart.yaml")
    assert generate(EXAMPLE, tmp_path / "caches", "--package") == 1


def test_generating_again_leaves_no_old_files(tmp_path: Path) -> None:
    output = tmp_path / "caches"
    generate(EXAMPLE, output)
    before = content(output)
    (output / "templates" / "stale.yaml").write_text("stale")
    assert generate(EXAMPLE, output) == 0
    assert content(output) == before
    assert [path.name for path in tmp_path.iterdir()] == ["caches"]


def test_foreign_directory_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "caches"
    output.mkdir()
    (output / "mine").write_text("mine")
    assert generate(EXAMPLE, output) == 1
    assert "was not written by registry-cache generate" in capsys.readouterr().err
    assert content(output) == {"mine": b"mine"}


def test_repository_in_the_folder_is_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "caches"
    generate(EXAMPLE, output)
    (output / ".git").mkdir()
    assert generate(EXAMPLE, output) == 1
    assert "contains .git, which would be lost" in capsys.readouterr().err
    assert (output / ".git").is_dir()


def test_invalid_document_changes_nothing(tmp_path: Path) -> None:
    output = tmp_path / "caches"
    generate(EXAMPLE, output)
    before = content(output)
    assert generate(written(tmp_path, "caches: []"), output) == 1
    assert content(output) == before


def test_old_chart_stays_if_the_new_one_cannot_replace_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "caches"
    generate(EXAMPLE, output)
    before = content(output)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    assert generate(written(tmp_path, "caches: [{upstream: docker.io}]"), output) == 1
    assert "cannot be written: Input/output error" in capsys.readouterr().err
    assert content(output) == before


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("My_Caches", "my-caches"),
        ("v2.caches", "v2-caches"),
        ("2026", "caches-2026"),
        ("_", "caches"),
        ("x" * 60, "x" * 53),
    ],
)
def test_name_is_derived_from_the_directory(tmp_path: Path, folder: str, name: str) -> None:
    assert generate(EXAMPLE, tmp_path / folder) == 0
    assert loaded(tmp_path / folder / "Chart.yaml")["name"] == name


@pytest.mark.parametrize("name", ["My_Caches", "a\n", "", "x" * 54, "2x"])
def test_invalid_name_of_a_chart_is_refused(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(EXAMPLE, tmp_path / "caches", "--name", name) == 1
    assert "is not a valid name for a chart" in capsys.readouterr().err
    assert not (tmp_path / "caches").exists()


def test_unwritable_directory_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert generate(EXAMPLE, tmp_path / "file" / "caches") == 1
    assert "cannot be written: " in capsys.readouterr().err


def test_hundred_caches_are_written_and_listed(tmp_path: Path) -> None:
    document = written(tmp_path, "caches:\n" + "".join(f"- upstream: r{n}.example.com\n" for n in range(100)))
    assert generate(document, tmp_path / "out") == 0
    assert (tmp_path / "out" / "README.md").read_text().count(".example.com | https://") == 100


@pytest.mark.parametrize("name", sorted(generated()))
def test_generated_files_are_up_to_date(name: str) -> None:
    assert (REPOSITORY / name).read_text() == generated()[name], "run make generate"
