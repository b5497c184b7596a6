"""Kubernetes quantities as numbers (apimachinery/pkg/api/resource)."""

from __future__ import annotations

from decimal import Decimal, Overflow, localcontext

UNITS = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
BINARY_UNITS = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}


def number(quantity: object) -> Decimal:
    """Return the number that a valid quantity stands for; infinity if it is too large for a Decimal."""
    text = str(quantity)
    unit = text.lstrip("+.0123456789")
    value = Decimal(text.removesuffix(unit))
    if unit in BINARY_UNITS:
        return value * Decimal(1024) ** BINARY_UNITS[unit]
    power = Decimal(UNITS[unit] if unit in UNITS else unit[1:])
    with localcontext() as context:
        context.traps[Overflow] = False
        return value * Decimal(10) ** power
