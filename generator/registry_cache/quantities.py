"""What a quantity of Kubernetes is as a number (apimachinery/pkg/api/resource)."""

from __future__ import annotations

from decimal import Decimal, Overflow, localcontext

UNITS = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
BINARY_UNITS = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}


def number(quantity: object) -> Decimal:
    """The number that a valid quantity is; infinity where it is larger than any."""
    written = str(quantity)
    unit = written.lstrip("+.0123456789")
    made = Decimal(written.removesuffix(unit))
    if unit in BINARY_UNITS:
        return made * Decimal(1024) ** BINARY_UNITS[unit]
    power = Decimal(UNITS[unit] if unit in UNITS else unit[1:])
    with localcontext() as context:
        context.traps[Overflow] = False
        return made * Decimal(10) ** power
