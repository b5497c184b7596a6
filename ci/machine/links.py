"""The rates and delays of links between hosts.

Virtual links have no rate of their own. `tc` gives them one with a token bucket (man 8 tc-tbf). Some kernels do not
have the queueing discipline netem, so a program makes the delays: cluster/delay_line.py.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass

from machine.own_network import run

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
RATE = re.compile(r"(\d+(?:\.\d+)?)([kmg]?)bit", re.IGNORECASE)
DELAY = re.compile(r"(\d+(?:\.\d+)?)(ms|s)")
UNLIMITED = "unlimited"
# With smaller bursts, the timer of the token bucket would slow down fast links.
BURST_SECONDS = 0.002
MIN_BURST_BYTES = 128 * 1024
# Packets that do not fit into this queue are dropped. It is long enough for one connection over a delay of 50 ms.
QUEUE_SECONDS = 0.032
MIN_QUEUE_BYTES = 512 * 1024


@dataclass(frozen=True)
class Links:
    """The rates and the delay of a cluster's links. Rates are in bits per second; None means unlimited.

    `node_rate` is that of each node's link and `upstream_rate` that of the upstreams' link, in each direction.
    `upstream_delay` is the round-trip delay between the upstreams and all nodes in seconds. `connection_rate` limits
    each connection to an upstream.
    """

    node_rate: int | None = None
    upstream_rate: int | None = None
    upstream_delay: float = 0.0
    connection_rate: int | None = None


def parse_rate(text: str) -> int | None:
    """Return a rate such as `200mbit` or `1gbit` in bits per second, and None for `unlimited`.

    Raises:
        argparse.ArgumentTypeError: It is not a rate.
    """
    if text == UNLIMITED:
        return None
    match = RATE.fullmatch(text)
    if match is None or not (bits := int(float(match[1]) * UNITS[match[2].lower()])):
        message = f"{text!r} is not a rate; write for example 200mbit, 1gbit or {UNLIMITED}"
        raise argparse.ArgumentTypeError(message)
    return bits


def parse_delay(text: str) -> float:
    """Return a delay such as `50ms` or `0` in seconds.

    Raises:
        argparse.ArgumentTypeError: It is not a delay.
    """
    if text == "0":
        return 0.0
    match = DELAY.fullmatch(text)
    if match is None:
        message = f"{text!r} is not a delay; write for example 50ms or 0.1s"
        raise argparse.ArgumentTypeError(message)
    return float(match[1]) / (1000 if match[2] == "ms" else 1)


def set_rate(device: str, bits: int | None, enter: tuple[str, ...] = ()) -> None:
    """Limit what leaves a device, or end its limit; `enter` begins the command that runs in the device's network."""
    discipline = ["noqueue"] if bits is None else ["tbf", *token_bucket(bits)]
    run(*enter, "tc", "qdisc", "replace", "dev", device, "root", *discipline)


def token_bucket(bits: int) -> list[str]:
    """Return the parameters of the queueing discipline for a rate (man 8 tc-tbf)."""
    burst = max(MIN_BURST_BYTES, int(bits / 8 * BURST_SECONDS))
    queue = max(MIN_QUEUE_BYTES, int(bits / 8 * QUEUE_SECONDS))
    return ["rate", f"{bits}bit", "burst", f"{burst}b", "limit", f"{queue}b"]
