"""The attacks on a cache: what each one does, and what must hold during it and afterwards.

What `attack_bed` requires of each: the node's pulls of a cached image succeed, come from the cache and take at most
about twice as long as usual; no container ends, and none needs more memory than it may have.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from experiments.attack_bed import AttackBed, Result, Scene


@dataclass(frozen=True)
class Attack:
    """An attack; `begin` attacks and checks what must hold for this attack alone."""

    name: str
    title: str
    begin: Callable[[Scene], None]
    options: dict[str, Any] = field(default_factory=dict)

    def run(self, bed: AttackBed) -> Result:
        """Attack a new pod."""
        return bed.run(self.begin, **self.options)


# By name, in the order of their definition.
ATTACKS: dict[str, Attack] = {}


def attack(title: str, **options: Any) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    """Return a decorator that adds a function to the attacks; `options` are arguments of `AttackBed.scene`."""

    def add(begin: Callable[[Scene], None]) -> Callable[[Scene], None]:
        name = begin.__name__.replace("_", "-")
        ATTACKS[name] = Attack(name, title, begin, options)
        return begin

    return add
