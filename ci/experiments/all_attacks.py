"""All attacks on a cache: importing the modules that define them adds them to the list."""

from experiments import attacks_by_clients, attacks_by_upstreams, attacks_on_programs
from experiments.attacks import ATTACKS

__all__ = ["ATTACKS", "attacks_by_clients", "attacks_by_upstreams", "attacks_on_programs"]
