"""Writes a chart for one configuration: the project's chart with the configuration as its default values."""

from __future__ import annotations

import gzip
import re
import shutil
import tarfile
import tempfile
import zlib
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import yaml

from registry_cache.schema import generated_chart_schema, schema_text
from registry_cache.values_file import dump, load_values, values_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry_cache.model.registry_config import Cache

PACKAGE = Path(__file__).parent
MARK = "registry-cache/generated"
UPSTREAMS = "registry-cache/upstreams"
CHART_FILE = "Chart.yaml"
COPIED = ("files", "templates", ".helmignore")
OWN_CACHES = "files/caches.yaml"  # as chart/templates/_caches.tpl reads it
NAME = re.compile("[a-z]([-a-z0-9]{0,51}[a-z0-9])?")


class CannotWrite(Exception):
    """The chart cannot be written there; the message says why, and what to do."""


def generate(configuration: dict[str, Any], output: Path, name: str | None = None) -> None:
    """Write the chart for a valid configuration into the directory `output`, completely or not at all.

    The same configuration and name give the same bytes. A chart that an earlier call wrote there is replaced. The
    default name is made from the name of the directory.

    Raises:
        CannotWrite: The directory contains something else, or the name is not valid for a chart.
    """
    name = _name(output, name)
    output = output.resolve()
    _refuse_foreign(output)
    with _beside(output) as work:
        _write(work / "new", configuration, name)
        _exchange(work / "new", output, work / "replaced")


def generate_package(configuration: dict[str, Any], output: Path, name: str | None = None) -> None:
    """Write the chart as `output`.tgz, as `helm package` does; otherwise the same as `generate`.

    Raises:
        CannotWrite: The file exists and is not such a package, or the name is not valid for a chart.
    """
    name = _name(output, name)
    output = output.resolve()
    package = output.with_name(f"{output.name}.tgz")
    _refuse_foreign_package(package)
    with _beside(package) as work:
        _write(work / name, configuration, name)
        _pack(work / name, work / "new")
        (work / "new").replace(package)


def render(template: str, **values: object) -> str:
    """Return one of our templates with values filled in."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PACKAGE / "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - Markdown
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        block_start_string="[%",
        block_end_string="%]",
        variable_start_string="[[",
        variable_end_string="]]",
        comment_start_string="[#",
        comment_end_string="#]",
    )
    return environment.get_template(template).render(values)


def chart_folder() -> Path:
    """Return the directory of the project's chart: in the installed package, or else in the repository."""
    installed = PACKAGE / "chart"
    return installed if installed.is_dir() else PACKAGE.parents[1] / "chart"


def _name(output: Path, name: str | None) -> str:
    """Return the chart's name: the given one, or one made from the name of the directory."""
    if name is None:
        slug = re.sub("[^a-z0-9]+", "-", output.absolute().name.lower()).strip("-")
        return (slug if slug[:1].isalpha() else f"caches-{slug}")[:53].strip("-")
    if not NAME.fullmatch(name):
        message = (
            f"{name!r} is not a valid name for a chart: write at most 53 lower case letters, digits and dashes, "
            "beginning with a letter"
        )
        raise CannotWrite(message)
    return name


@contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """Provide a directory on the same file system, so that a rename puts its content in place."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as work:
            yield Path(work)
    except OSError as error:
        message = f"{output} cannot be written: {error.strerror}"
        raise CannotWrite(message) from error


def _pack(chart: Path, package: Path) -> None:
    """Write a .tgz whose bytes depend only on the chart's files."""
    with (
        package.open("wb") as file,
        gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted(chart.rglob("*")):
            if path.is_file():
                entry = tarfile.TarInfo(f"{chart.name}/{path.relative_to(chart)}")
                entry.size = path.stat().st_size
                with path.open("rb") as content:
                    archive.addfile(entry, content)


def _exchange(new: Path, output: Path, replaced: Path) -> None:
    if not output.exists():
        new.rename(output)
        return
    output.rename(replaced)
    try:
        new.rename(output)
    except OSError:
        replaced.rename(output)
        raise


def _refuse_foreign(output: Path) -> None:
    """Refuse a directory that an earlier call did not write, or that has become a repository."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if (output / ".git").exists():
        message = f"{output} contains .git, which would be lost; name a directory below it"
        raise CannotWrite(message)
    chart = output / CHART_FILE
    if not chart.is_file() or MARK not in chart.read_text(encoding="utf-8", errors="replace"):
        message = f"{output} was not written by registry-cache generate; name another directory"
        raise CannotWrite(message)


def _refuse_foreign_package(package: Path) -> None:
    """Refuse to replace a file that an earlier call did not write."""
    if not package.exists():
        return
    try:
        with tarfile.open(package) as archive:
            is_ours = any(
                MARK in content.read().decode(errors="replace")
                for entry in archive
                if entry.name.count("/") == 1
                and entry.name.endswith(f"/{CHART_FILE}")
                and (content := archive.extractfile(entry))
            )
    except (OSError, tarfile.TarError, EOFError, zlib.error):
        is_ours = False
    if not is_ours:
        message = f"{package} was not written by registry-cache generate; name another file"
        raise CannotWrite(message)


def _write(folder: Path, configuration: dict[str, Any], name: str) -> None:
    source = chart_folder()
    folder.mkdir()
    for entry in COPIED:
        if (source / entry).is_dir():
            shutil.copytree(source / entry, folder / entry, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source / entry, folder / entry)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    chart = yaml.safe_load((source / CHART_FILE).read_text(encoding="utf-8"))
    caches = load_values(configuration).caches
    upstreams = ", ".join(cache.upstream for cache in caches)
    values = values_text(f"Made by `registry-cache generate` for {upstreams}.", configuration)
    chart["name"] = name
    chart["description"] = f"Pull-through caches for {upstreams}"
    # Each configuration is a version of its own, by which packages are told apart.
    chart["version"] += f"+{sha256(values.encode()).hexdigest()[:8]}"
    # Those for Artifact Hub are about the project's own chart.
    annotations = {key: text for key, text in chart["annotations"].items() if not key.startswith("artifacthub.io/")}
    chart["annotations"] = {**annotations, MARK: "true", UPSTREAMS: upstreams}
    files = {
        CHART_FILE: dump(chart),
        "values.yaml": values,
        "values.schema.json": schema_text(generated_chart_schema()),
        OWN_CACHES: dump(configuration["caches"]),
        "README.md": render(
            "generated-readme.md.j2",
            name=name,
            caches=[_row(cache) for cache in caches],
            secrets=sorted({cache.secretReferenceName for cache in caches if cache.secretReferenceName}),
        ),
    }
    for file, content in files.items():
        (folder / file).write_text(content, encoding="utf-8")


def _row(cache: Cache) -> dict[str, str]:
    """Return a cache for the table in the README."""
    return {
        "upstream": cache.upstream,
        "remoteURL": cache.remote_url,
        "size": str(cache.volume.size),
        "storageClass": cache.volume.storageClassName or "the cluster's default",
        "ttl": cache.garbageCollection.ttl if cache.expires else "until the volume is full",
        "secret": f"Secret {cache.secretReferenceName}" if cache.secretReferenceName else "none",
    }
