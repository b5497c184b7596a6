"""A fluid model of a roll-out: many nodes pull one image at the same moment.

Every transfer is a flow with a rate. Flows that share a line get max-min fair shares of it, as TCP gives them roughly:
no flow can have more without another one with less losing some. The rates stay the same until a flow starts or ends.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from fetching.replica_first import rank_replicas

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The least time between two changes of rates, and so the error of an end: this, or a share of the time since the start.
STEP_SECONDS = 0.005
STEP_SHARE = 0.004
# How many layers of an image containerd fetches at the same time.
LAYERS_AT_ONCE = 3
UPSTREAM = "upstream"


class Costs(NamedTuple):
    """Lines in bytes a second, the image, and what a replica can do."""

    node_line: float
    replica_line: float
    upstream_line: float
    layers: int
    layer_bytes: float
    fetch_rate: float
    """The most that a replica stores of one blob from the upstream, in bytes a second."""
    relay_rate: float
    """The same from another replica."""
    request_seconds: float
    """CPU time of a replica for a request, one after the other."""


class Result(NamedTuple):
    """When each node had the whole image, sorted, and the bytes that left the upstream and that replicas exchanged."""

    seconds: tuple[float, ...]
    upstream_bytes: float
    relayed_bytes: float

    @property
    def last(self) -> float:
        """When the last node had the image."""
        return self.seconds[-1]


@dataclass(eq=False)
class _Flow:
    """A layer on its way over some lines; `source` is the flow that fills what it reads from."""

    lines: tuple[str, ...]
    size: float
    starts: float
    cap: float = math.inf
    source: _Flow | None = None
    node: int = -1
    done: float = 0.0
    rate: float = 0.0
    ended: float = field(default=math.inf)

    def limit(self) -> float:
        """Return the most that it can have now: it cannot overtake what it reads from."""
        source = self.source
        if source is None or source.done >= source.size or not source.rate:
            return self.cap
        is_close = source.done - self.done < STEP_SECONDS * source.rate
        return min(self.cap, source.rate) if is_close else self.cap


class _Shares:
    """The flows that have no rate yet, and what is left of the lines."""

    def __init__(self, flows: Sequence[tuple[tuple[str, ...], float]], capacities: Mapping[str, float]) -> None:
        self._flows = flows
        self.rates = [0.0] * len(flows)
        self._is_open = [True] * len(flows)
        self._users: dict[str, list[int]] = {}
        for index, (lines, _) in enumerate(flows):
            for line in lines:
                self._users.setdefault(line, []).append(index)
        self._left = {line: capacities[line] for line in self._users}
        self._count = {line: len(members) for line, members in self._users.items()}
        self._by_share = [(self._left[line] / self._count[line], line) for line in self._users]
        heapq.heapify(self._by_share)
        self._by_limit = sorted(range(len(flows)), key=lambda index: flows[index][1], reverse=True)

    def find_lowest_limit(self) -> int | None:
        """Return the flow with the lowest limit."""
        while self._by_limit and not self._is_open[self._by_limit[-1]]:
            self._by_limit.pop()
        return self._by_limit[-1] if self._by_limit else None

    def find_narrowest_line(self) -> tuple[float, str]:
        """Return the line that has the least for each of its flows, and how much that is."""
        while self._by_share:
            share, line = self._by_share[0]
            if not self._count[line]:
                heapq.heappop(self._by_share)
                continue
            current = max(0.0, self._left[line]) / self._count[line]
            if current <= share * (1 + 1e-12):
                return share, line
            # Flows with less than a fair share left some of it.
            heapq.heapreplace(self._by_share, (current, line))
        return math.inf, ""

    def fill(self, line: str, share: float) -> None:
        """Give this to all flows of a line."""
        for index in self._users[line]:
            if self._is_open[index]:
                self.give(index, share)

    def give(self, index: int, rate: float) -> None:
        self._is_open[index] = False
        self.rates[index] = rate
        for line in self._flows[index][0]:
            self._left[line] -= rate
            self._count[line] -= 1


def share_lines(flows: Sequence[tuple[tuple[str, ...], float]], capacities: Mapping[str, float]) -> list[float]:
    """Return the max-min fair rates of flows, each with its lines and the most that it can have."""
    shares = _Shares(flows, capacities)
    while (index := shares.find_lowest_limit()) is not None:
        share, line = shares.find_narrowest_line()
        limit = flows[index][1]
        if share < limit:
            shares.fill(line, share)
        else:
            shares.give(index, limit)
    return shares.rates


class Rollout:
    """One roll-out to some nodes through some replicas, or directly if there are none."""

    def __init__(self, costs: Costs, nodes: int, replicas: int, seed: int = 1) -> None:
        """All nodes start at the same moment; a Service picks a replica for each request at random."""
        self._costs = costs
        self._nodes = nodes
        self._names = [f"x-{number}" for number in range(replicas)]
        self._random = random.Random(seed)  # noqa: S311 - not a secret
        self._capacities = {UPSTREAM: costs.upstream_line}
        self._capacities |= {f"node {node}": costs.node_line for node in range(nodes)}
        for name in self._names:
            self._capacities |= {f"{name} in": costs.replica_line, f"{name} out": costs.replica_line}
        self._fills: dict[tuple[str, int], _Flow] = {}
        self._flows: list[_Flow] = []
        self._next_layer = [0] * nodes
        self._left = [costs.layers] * nodes
        self._busy_until = dict.fromkeys(self._names, 0.0)
        self._upstream_bytes = self._relayed_bytes = 0.0

    def run(self) -> Result:
        """Run until every node has the image."""
        for _ in range(LAYERS_AT_ONCE):
            for node in range(self._nodes):
                self._request_layer(node, 0.0)
        now, ends = 0.0, [0.0] * self._nodes
        while self._flows:
            running = [flow for flow in self._flows if flow.starts <= now]
            for _ in range(2):  # the second time, limits follow from rates that are nearly right
                rates = share_lines([(flow.lines, flow.limit()) for flow in running], self._capacities)
                for flow, rate in zip(running, rates, strict=True):
                    flow.rate = rate
            step = self._next_change(running, now)
            _advance(running, now, step)
            now += step
            self._flows = [flow for flow in self._flows if flow.ended == math.inf]
            for flow in running:
                if flow.ended < math.inf and flow.node >= 0:
                    ends[flow.node] = max(ends[flow.node], flow.ended)
                    self._request_layer(flow.node, flow.ended)
        return Result(tuple(sorted(ends)), self._upstream_bytes, self._relayed_bytes)

    def _next_change(self, running: Sequence[_Flow], now: float) -> float:
        """Return the seconds until the next flow starts or ends, or reaches the end of what it reads from."""
        soonest = min((flow.starts - now for flow in self._flows if flow.starts > now), default=math.inf)
        for flow in running:
            if flow.rate:
                soonest = min(soonest, (flow.size - flow.done) / flow.rate)
            source = flow.source
            if source is not None and source.done < source.size and flow.rate > source.rate:
                soonest = min(soonest, (source.done - flow.done) / (flow.rate - source.rate))
        least = max(STEP_SECONDS, STEP_SHARE * now)
        return least if soonest == math.inf else max(least, soonest)

    def _request_layer(self, node: int, now: float) -> None:
        layer = self._next_layer[node]
        if layer == self._costs.layers:
            return
        self._next_layer[node] += 1
        size = self._costs.layer_bytes
        if not self._names:
            self._upstream_bytes += size
            self._flows.append(_Flow((UPSTREAM, f"node {node}"), size, now, node=node))
            return
        name = self._random.choice(self._names)
        starts = self._busy_until[name] = max(now, self._busy_until[name]) + self._costs.request_seconds
        source = self._fill(name, layer, starts)
        self._flows.append(_Flow((f"{name} out", f"node {node}"), size, starts, source=source, node=node))

    def _fill(self, name: str, layer: int, now: float) -> _Flow:
        """Return the flow that brings a layer to a replica: from its owner, or from the upstream."""
        if (name, layer) in self._fills:
            return self._fills[name, layer]
        costs, owner = self._costs, rank_replicas(self._names, f"layer {layer}")[0]
        if name == owner:
            self._upstream_bytes += costs.layer_bytes
            flow = _Flow((UPSTREAM, f"{name} in"), costs.layer_bytes, now, cap=costs.fetch_rate)
        else:
            self._relayed_bytes += costs.layer_bytes
            source = self._fill(owner, layer, now)
            lines = (f"{owner} out", f"{name} in")
            flow = _Flow(lines, costs.layer_bytes, now, cap=costs.relay_rate, source=source)
        self._fills[name, layer] = flow
        self._flows.append(flow)
        return flow


def _advance(running: Sequence[_Flow], now: float, step: float) -> None:
    """Move all flows on, none of them beyond what it reads from."""
    for flow in running:
        left = flow.size - flow.done
        if flow.rate * step >= left * (1 - 1e-9):
            flow.ended = now + (left / flow.rate if flow.rate else 0.0)
            flow.done = flow.size
        else:
            flow.done += flow.rate * step
    for flow in running:
        if flow.source is not None and flow.source.done < flow.source.size and flow.done > flow.source.done:
            flow.done, flow.ended = flow.source.done, math.inf
