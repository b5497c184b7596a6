"""Writes a chart for one configuration: the project's chart with the configuration as its defaults."""

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

from registry_cache import names
from registry_cache.schema import generated_chart_schema, schema_text
from registry_cache.values_file import dump, values_text

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parent
MARK = "registry-cache/generated"
UPSTREAMS = "registry-cache/upstreams"
CHART_FILE = "Chart.yaml"
COPIED = ("files", "templates", ".helmignore")
OWN_CACHES = "files/caches.yaml"  # as chart/templates/_helpers.tpl reads it
NAME = re.compile("[a-z]([-a-z0-9]{0,51}[a-z0-9])?")


class CannotWrite(Exception):
    """The chart cannot be written there; the message says why and what to do."""


def generate(configuration: dict[str, Any], output: Path, name: str | None = None) -> None:
    """Write the chart for a valid configuration into the folder `output`, whole or not at all.

    The same configuration and name give the same bytes. A chart that an earlier call wrote there is replaced. Without a
    name the folder's is used, as far as it can be one.

    Raises:
        CannotWrite: the folder holds something else, or the name is no chart's name.
    """
    name = _name(output, name)
    output = output.resolve()
    _refuse_foreign(output)
    with _beside(output) as work:
        _write(work / "made", configuration, name)
        _exchange(work / "made", output, work / "replaced")


def generate_package(configuration: dict[str, Any], output: Path, name: str | None = None) -> None:
    """Write the chart as `output`.tgz, as `helm package` does; else as with `generate`.

    Raises:
        CannotWrite: the file is there and not such a package, or the name is no chart's name.
    """
    name = _name(output, name)
    output = output.resolve()
    package = output.with_name(f"{output.name}.tgz")
    _refuse_foreign_package(package)
    with _beside(package) as work:
        _write(work / name, configuration, name)
        _pack(work / name, work / "made")
        (work / "made").replace(package)


def render(template: str, **values: object) -> str:
    """A text of ours with values in it."""
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
    """The project's chart: in the package where it is installed, else in the repository."""
    installed = PACKAGE / "chart"
    return installed if installed.is_dir() else PACKAGE.parents[1] / "chart"


def _name(output: Path, name: str | None) -> str:
    """The chart's name: the one that is given, else made of the folder's."""
    if name is None:
        made = re.sub("[^a-z0-9]+", "-", output.absolute().name.lower()).strip("-")
        return (made if made[:1].isalpha() else f"caches-{made}")[:53].strip("-")
    if not NAME.fullmatch(name):
        message = (
            f"{name!r} is not a chart's name: write at most 53 lower case letters, digits and dashes, a letter first"
        )
        raise CannotWrite(message)
    return name


@contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """A folder on the same file system, so that what is made there takes its place in one step."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as work:
            yield Path(work)
    except OSError as error:
        message = f"{output} cannot be written: {error.strerror}"
        raise CannotWrite(message) from error


def _pack(chart: Path, package: Path) -> None:
    """A .tgz of a chart whose bytes depend on its files alone."""
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


def _exchange(made: Path, output: Path, replaced: Path) -> None:
    if not output.exists():
        made.rename(output)
        return
    output.rename(replaced)
    try:
        made.rename(output)
    except OSError:
        replaced.rename(output)
        raise


def _refuse_foreign(output: Path) -> None:
    """Refuse a folder that an earlier call did not make, or that is a repository by now."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if (output / ".git").exists():
        message = f"{output} holds .git, which would be lost; name a folder below it"
        raise CannotWrite(message)
    chart = output / CHART_FILE
    if not chart.is_file() or MARK not in chart.read_text(encoding="utf-8", errors="replace"):
        message = f"{output} is not a chart that registry-cache generate made; name another folder"
        raise CannotWrite(message)


def _refuse_foreign_package(package: Path) -> None:
    """Refuse to replace a file that an earlier call did not make."""
    if not package.exists():
        return
    try:
        with tarfile.open(package) as archive:
            marked = any(
                MARK in content.read().decode(errors="replace")
                for entry in archive
                if entry.name.count("/") == 1
                and entry.name.endswith(f"/{CHART_FILE}")
                and (content := archive.extractfile(entry))
            )
    except (OSError, tarfile.TarError, EOFError, zlib.error):
        marked = False
    if not marked:
        message = f"{package} is not a chart that registry-cache generate made; name another one"
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
    caches = configuration["caches"]
    upstreams = ", ".join(cache["upstream"] for cache in caches)
    values = values_text(f"Made by `registry-cache generate` for {upstreams}.", configuration)
    chart["name"] = name
    chart["description"] = f"Pull-through caches for {upstreams}"
    # So that each configuration is a version, which is what a packaged chart is told by.
    chart["version"] += f"+{sha256(values.encode()).hexdigest()[:8]}"
    # What Artifact Hub is told is about the project's chart.
    annotations = {key: text for key, text in chart["annotations"].items() if not key.startswith("artifacthub.io/")}
    chart["annotations"] = {**annotations, MARK: "true", UPSTREAMS: upstreams}
    files = {
        CHART_FILE: dump(chart),
        "values.yaml": values,
        "values.schema.json": schema_text(generated_chart_schema()),
        OWN_CACHES: dump(caches),
        "README.md": render(
            "generated-readme.md.j2",
            name=name,
            caches=[_row(cache) for cache in caches],
            secrets=sorted({cache["secretReferenceName"] for cache in caches if "secretReferenceName" in cache}),
        ),
    }
    for file, content in files.items():
        (folder / file).write_text(content, encoding="utf-8")


def _row(cache: dict[str, Any]) -> dict[str, str]:
    """A cache in the table of the README, with what is the default where nothing is written."""
    ttl = cache.get("garbageCollection", {}).get("ttl", "168h")
    return {
        "upstream": cache["upstream"],
        "remoteURL": names.remote_url(cache),
        "size": str(cache.get("volume", {}).get("size", "10Gi")),
        "storageClass": cache.get("volume", {}).get("storageClassName", "the cluster's default"),
        "ttl": "until the volume is full" if re.fullmatch("[+-]?[0a-zµμ.]+", ttl) else ttl,
        "secret": f"Secret {cache['secretReferenceName']}" if "secretReferenceName" in cache else "none",
    }
