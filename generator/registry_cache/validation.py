"""Finds every problem of a document, with its path, what is wrong and what to write instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry_cache import shoot, value_rules
from registry_cache.foreign.recognize import count_text, describe, recognize, unpack
from registry_cache.problems import Finding, Problem
from registry_cache.schema_problems import find_schema_problems

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry_cache.document import Document


def find_problems(document: Document) -> list[Problem]:
    """Return every problem of a RegistryConfig of any version, a values file or a Shoot, in the order of the file."""
    if recognized := recognize(document):
        return [Problem.of(document, Finding((), describe(document, recognized)))]
    content = document.content
    if document.documents or (isinstance(content, dict) and content.get("kind") == "List"):
        path, reason = ((), "contains") if document.documents else (("kind",), "this is a List of")
        text = f"{reason} {count_text(unpack(document))}; write each of them into a file of its own"
        return [Problem.of(document, Finding(path, text))]
    if not shoot.is_shoot(content):
        return _sorted(_config_problems(document))
    config = shoot.registry_config(document)
    problems = {Problem.of(document, finding) for finding in shoot.find_problems(document)}
    if config is not None:
        problems |= _config_problems(config)
        problems |= {Problem.of(config, finding) for finding in value_rules.find_gardener_problems(config.content)}
    return _sorted(problems)


def _sorted(problems: Iterable[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: (problem.line or 0, problem.path, problem.text))


def _config_problems(document: Document) -> set[Problem]:
    findings = (*value_rules.find_problems(document.content), *find_schema_problems(document.content))
    return {Problem.of(document, finding) for finding in findings}
