"""The command `registry-cache`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import shtab

from registry_cache import plan
from registry_cache.build import CannotWrite, generate, generate_package
from registry_cache.convert import Converted, convert, drop_unsupported, import_foreign
from registry_cache.document import Document, Unreadable, join_documents, read
from registry_cache.names import RELEASE
from registry_cache.problems import Problem
from registry_cache.validation import find_problems
from registry_cache.values_file import load_values

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DONE, PROBLEMS, REFUSED, USAGE, INTERRUPTED = 0, 1, 2, 64, 130
EXIT_CODES = """
exit codes: 0 success
            1 a document has problems, or a file or the cluster cannot be read; nothing was changed
            2 plan: the chart would refuse the upgrade
            64 wrong usage
"""
ANY_DOCUMENT = "a RegistryConfig of any version, a values file or a Shoot, in YAML or JSON; - reads standard input"


class Failed(Exception):
    """The command ends with exit code 1; the message is for standard error."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command line and return the exit code."""
    try:
        options = _parser().parse_args(arguments)
        run: Callable[[argparse.Namespace], int] = options.run
        code = run(options)
        sys.stdout.flush()
    except (Failed, CannotWrite) as error:
        print(error, file=sys.stderr)
        return PROBLEMS
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # as with `registry-cache … | head`; Python would complain again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PROBLEMS
    return code


class _Parser(argparse.ArgumentParser):
    """A parser whose exit code for wrong usage is the one of sysexits.h, because plan uses 2."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="registry-cache",
        description="Checks a RegistryConfig, makes one of other documents or of what a cluster pulls,\n"
        "and writes a Helm chart of pull-through registry caches for it.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], int], summary: str, *examples: str
    ) -> argparse.ArgumentParser:
        lines = "\n".join(f"  {example}" for example in examples)
        added: argparse.ArgumentParser = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"examples:\n{lines}\n{EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=run)
        return added

    validate = command(
        "validate",
        _validate,
        "print every problem of one or more documents",
        "registry-cache validate registry-config.yaml",
        "registry-cache validate --output json shoots/*.yaml",
        "registry-cache convert shoot.yaml | registry-cache validate -",
    )
    _add_document(validate, "files", nargs="+")
    _add_output_format(validate)

    converts = command(
        "convert",
        _convert,
        "print a RegistryConfig v1alpha3 that is made of a Shoot, an older version, or mirrors of other programs",
        "registry-cache convert shoot.yaml > registry-config.yaml",
        "registry-cache convert /etc/rancher/k3s/registries.yaml > registry-config.yaml",
        "registry-cache convert /etc/containerd/certs.d/*/hosts.toml > registry-config.yaml",
        "kubectl get registrycacheconfigs -A -o yaml | registry-cache convert -",
    )
    _add_document(
        converts,
        "files",
        nargs="+",
        help=f"{ANY_DOCUMENT}; or a registries.yaml of k3s, mirrors of Talos, a hosts.toml or config.toml of "
        "containerd, values of Spegel, and many others (docs/reference/command.md)",
    )

    generates = command(
        "generate",
        _generate,
        "write a chart that has a document as its default values",
        "registry-cache generate registry-config.yaml --output build/my-caches",
        "registry-cache generate registry-config.yaml --output build/my-caches --package",
    )
    _add_document(generates, "file")
    generates.add_argument("--output", type=Path, required=True, metavar="DIR", help="the directory of the chart")
    generates.add_argument("--name", help="the name of the chart (default: made from the name of the directory)")
    generates.add_argument("--package", action="store_true", help="write DIR.tgz instead of a directory")

    plans = command(
        "plan",
        _plan,
        "print what an upgrade from one document to another does",
        "registry-cache plan old.yaml new.yaml",
        "git show HEAD:caches.yaml | registry-cache plan - caches.yaml",
    )
    _add_document(plans, "old", metavar="OLD")
    _add_document(plans, "new", metavar="NEW")
    plans.add_argument("--release", default=RELEASE, metavar="NAME", help="the Helm release (default: %(default)s)")
    _add_output_format(plans)

    discovers = command(
        "discover",
        _discover,
        "print a RegistryConfig for the registries that a cluster pulls from",
        "registry-cache discover > registry-config.yaml",
        "registry-cache discover --context production --values registry-config.yaml",
    )
    discovers.add_argument("--kubeconfig", type=Path, metavar="FILE", help="the kubeconfig (default: kubectl's)")
    discovers.add_argument("--context", metavar="NAME", help="a context of the kubeconfig (default: the current one)")
    _add_document(discovers, "--values", help=f"print only the caches that this file does not have: {ANY_DOCUMENT}")

    certificates = command(
        "certificates",
        _certificates,
        "print Secrets with the certificates of the caches with TLS",
        "registry-cache certificates values.yaml --namespace registry-cache > secrets.yaml",
        "registry-cache certificates values.yaml --authority secrets.yaml > renewed.yaml",
    )
    _add_document(certificates, "file")
    certificates.add_argument(
        "--release", default=RELEASE, metavar="NAME", help="the Helm release (default: %(default)s)"
    )
    certificates.add_argument(
        "--namespace", default=RELEASE, metavar="NAME", help="the namespace of the release (default: %(default)s)"
    )
    certificates.add_argument(
        "--authority",
        type=Path,
        metavar="FILE",
        help="an earlier output, whose authority signs again (default: a new one)",
    )
    certificates.add_argument(
        "--days", type=int, default=365, metavar="N", help="how long the certificates are valid (default: %(default)s)"
    )

    completes = command(
        "completion",
        lambda options: _print(shtab.complete(_parser(), options.shell)),
        "print the completion of this command for a shell",
        "registry-cache completion bash > ~/.local/share/bash-completion/completions/registry-cache",
        "registry-cache completion zsh > ~/.zfunc/_registry-cache",
    )
    completes.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
    return parser


def _add_document(parser: argparse.ArgumentParser, name: str, **more: Any) -> None:  # noqa: ANN401 - argparse's
    argument = parser.add_argument(name, **{"metavar": "FILE", "help": ANY_DOCUMENT, **more})
    argument.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's way


def _add_output_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", choices=("text", "json"), default="text", help="for people or for machines (default: %(default)s)"
    )


def _print(text: str) -> int:
    print(text)
    return DONE


def _validate(options: argparse.Namespace) -> int:
    problems = [(name, problem) for name in options.files for problem in _problems_of_file(name)]
    if options.output == "json":
        print(json.dumps([{"file": name, **problem.as_json()} for name, problem in problems], indent=2))
    else:
        _print_problems(problems)
    invalid = {name for name, _ in problems}
    for name in options.files:
        # What is valid may still mean something else here than in Gardener. Standard input was read already.
        if name not in (*invalid, "-"):
            _print_notes(name, convert(_read_document(name)))
    return PROBLEMS if problems else DONE


def _problems_of_file(name: str) -> list[Problem]:
    try:
        return find_problems(read(name))
    except Unreadable as error:
        return [Problem(error.line, "", error.text)]


def _convert(options: argparse.Namespace) -> int:
    read_documents = [_read_document(name) for name in options.files]
    document = read_documents[0] if len(read_documents) == 1 else join_documents(read_documents)
    document, import_notes = import_foreign(document)
    document, notes = drop_unsupported(document)
    converted = _convert_document(", ".join(options.files), document)
    return _print(Converted(converted.values, [*import_notes, *notes, *converted.notes]).text().removesuffix("\n"))


def _generate(options: argparse.Namespace) -> int:
    converted = _convert_document(options.file, _read_document(options.file))
    write = generate_package if options.package else generate
    write(converted.values, options.output, options.name)
    _print_notes(options.file, converted)
    return DONE


def _plan(options: argparse.Namespace) -> int:
    if options.old == options.new == "-":
        message = "OLD and NEW are both standard input; name a file for one of them"
        raise Failed(message)
    old, new = (_convert_document(name, _read_document(name)) for name in (options.old, options.new))
    _print_notes(options.new, new)
    result = plan.plan(load_values(old.values), load_values(new.values), options.release)
    print(json.dumps(result.as_json(), indent=2) if options.output == "json" else result.text())
    return REFUSED if result.refused else DONE


def _discover(options: argparse.Namespace) -> int:
    cached = []
    if options.values is not None:
        values = load_values(_convert_document(options.values, _read_document(options.values)).values)
        cached = [cache.upstream for cache in values.caches]
    # The client of Kubernetes takes a second to load.
    from registry_cache.cluster_api import CannotDiscover, connect  # noqa: PLC0415 - see above
    from registry_cache.discover import discover  # noqa: PLC0415 - it loads the client too
    from registry_cache.discovery_text import document_text  # noqa: PLC0415 - beside the others

    try:
        discovery = discover(connect(options.kubeconfig, options.context))
    except CannotDiscover as error:
        raise Failed(str(error)) from error
    _print(document_text(discovery, cached).removesuffix("\n"))
    return DONE if discovery.upstreams else PROBLEMS


def _certificates(options: argparse.Namespace) -> int:
    values = load_values(_convert_document(options.file, _read_document(options.file)).values)
    if not any(cache.http.tls for cache in values.caches):
        message = f"{_display_name(options.file)}: no cache has http.tls: true"
        raise Failed(message)
    # The library takes a while to load.
    from registry_cache.certificates import CannotSign, make_secrets, read_authority, secrets_text  # noqa: PLC0415

    try:
        authority = read_authority(options.authority.read_text()) if options.authority else None
    except (CannotSign, OSError) as error:
        message = f"{options.authority}: {error.strerror if isinstance(error, OSError) else error}"
        raise Failed(message) from error
    secrets = make_secrets(values, options.release, options.namespace, days=options.days, authority=authority)
    if repeated := next((name for name, count in Counter(one.name for one in secrets).items() if count > 1), None):
        reason = f"the Secret {repeated} would get two certificates; write another tlsSecretName or clientSecretName"
        message = f"{_display_name(options.file)}: {reason}"
        raise Failed(message)
    print(secrets_text(secrets).removesuffix("\n"))
    for secret in secrets:
        print(f"Secret {secret.name}: the certificate ends on {secret.end:%Y-%m-%d}", file=sys.stderr)
    return DONE


def _read_document(name: str) -> Document:
    try:
        return read(name)
    except Unreadable as error:
        message = f"{_display_name(name)}: {error}"
        raise Failed(message) from error


def _convert_document(name: str, document: Document) -> Converted:
    """Return a document as v1alpha3; if it has problems, the command ends and prints them."""
    problems = find_problems(document)
    if problems:
        raise Failed("\n".join(f"{_display_name(name)}: {problem}" for problem in problems))
    return convert(document)


def _print_problems(problems: Sequence[tuple[str, Problem]]) -> None:
    for name, problem in problems:
        print(f"{_display_name(name)}: {problem}", file=sys.stderr)


def _print_notes(name: str, converted: Converted) -> None:
    """Print what is different here from Gardener, to standard error."""
    for note in converted.notes:
        print(f"{_display_name(name)}: note: {note}", file=sys.stderr)


def _display_name(name: str) -> str:
    return "standard input" if name == "-" else name
