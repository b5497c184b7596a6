"""Writes a chart for one configuration: the project's chart with the configuration as its defaults."""

from __future__ import annotations

import re
import shutil
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import jinja2
import yaml

from registry_cache.values_file import dump, values_text

PACKAGE = Path(__file__).parent
MARK = "registry-cache/generated"
COPIED = ("files", "templates", ".helmignore", "values.schema.json")
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
    name = _name(output.absolute().name) if name is None else name
    output = output.resolve()
    if not NAME.fullmatch(name):
        message = (
            f"{name!r} is not a chart's name: write at most 53 lower case letters, digits and dashes, a letter first"
        )
        raise CannotWrite(message)
    _refuse_foreign(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as work:
            made = Path(work) / "made"
            _write(made, configuration, name)
            _exchange(made, output, Path(work) / "replaced")
    except OSError as error:
        message = f"{output} cannot be written: {error.strerror}"
        raise CannotWrite(message) from error


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


def _name(folder: str) -> str:
    """A chart's name made of a folder's."""
    name = re.sub("[^a-z0-9]+", "-", folder.lower()).strip("-")
    return (name if name[:1].isalpha() else f"caches-{name}")[:53].strip("-")


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
    chart = output / "Chart.yaml"
    if not chart.is_file() or MARK not in chart.read_text(encoding="utf-8", errors="replace"):
        message = f"{output} is not a chart that registry-cache generate made; name another folder"
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
    chart = yaml.safe_load((source / "Chart.yaml").read_text(encoding="utf-8"))
    upstreams = ", ".join(cache["upstream"] for cache in configuration["caches"])
    values = values_text(f"Made by `registry-cache generate` for {upstreams}.", configuration)
    chart["name"] = name
    chart["description"] = f"Pull-through caches for {upstreams}"
    # So that each configuration is a version, which is what a packaged chart is told by.
    chart["version"] += f"+{sha256(values.encode()).hexdigest()[:8]}"
    chart["annotations"] = {**chart.get("annotations", {}), MARK: "true"}
    files = {
        "Chart.yaml": dump(chart),
        "values.yaml": values,
        "README.md": render(
            "generated-readme.md.j2", name=name, caches=[_row(cache) for cache in configuration["caches"]]
        ),
    }
    for file, content in files.items():
        (folder / file).write_text(content, encoding="utf-8")


def _row(cache: dict[str, Any]) -> dict[str, str]:
    """A cache in the table of the README, with what is the default where nothing is written."""
    host = "registry-1.docker.io" if cache["upstream"] == "docker.io" else cache["upstream"]
    ttl = cache.get("garbageCollection", {}).get("ttl", "168h")
    return {
        "upstream": cache["upstream"],
        "remoteURL": cache.get("remoteURL", f"https://{host}"),
        "size": str(cache.get("volume", {}).get("size", "10Gi")),
        "storageClass": cache.get("volume", {}).get("storageClassName", "the cluster's default"),
        "ttl": ttl,
        "secret": f"Secret {cache['secretReferenceName']}" if "secretReferenceName" in cache else "none",
    }
