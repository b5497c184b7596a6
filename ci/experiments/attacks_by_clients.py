"""Attacks by a pod that can only send requests to a cache."""

from __future__ import annotations

import http.client
import time
from typing import TYPE_CHECKING

from upstreams import oci

from experiments.attack_bed import HONEST, MIB, ask
from experiments.attacks import attack
from experiments.pod_bench import CERTIFICATE, UPSTREAM

if TYPE_CHECKING:
    from experiments.attack_bed import Scene

SECONDS = 8.0
FAST_SECONDS = 10.0
SMALL_VOLUME = {"volume": {"size": "100Mi"}}
MAX_LINKS = 64
MAX_ERROR_BYTES = 1000
# A fetch that no client waits for may go on for a while, so that a client that comes back finds more of the blob.
ABANDONED_SECONDS = 75.0
LONG_BLOBS = 5
RANGE_BYTES = 100_000
MAX_THREADS = 64
TOKENS = 3000
TOKEN_BYTES = 6000
# So many tokens of one address the upstream is asked about in a minute (access/attempts.py), and some in flight.
MAX_ASKED = 1200 + 60 + 64
MAX_GROWTH_MIB = 64
PULLERS = {
    "cache": {"http": {"tls": True}},
    "values": {
        "upstreamSettings": {
            UPSTREAM: {"access": "Puller", "clusterIP": "10.96.0.100", "tlsSecretName": CERTIFICATE},
        }
    },
}


def push_forty(scene: Scene) -> oci.Image:
    """Let the cache store an image with 40 layers, and return it."""
    image = scene.bed.push("forty", 40, MIB)
    for digest in image.blobs:
        answer = scene.get(f"/v2/library/forty/blobs/{digest}")
        assert (answer.status, answer.whole) == (http.client.OK, True), answer
    return image


def ask_for_new_blob(scene: Scene, name: str) -> None:
    """Require that a blob that the cache does not have is sent, or refused at once."""
    image = scene.bed.push(name, 1, MIB)
    digest = oci.digest(image.layers[0])
    answer = scene.get(f"/v2/library/{name}/blobs/{digest}")
    is_right = answer.status == http.client.OK and answer.whole and oci.digest(answer.body) == digest
    scene.require(
        is_right or answer.status == http.client.SERVICE_UNAVAILABLE,
        f"a new blob was answered with {answer.status}, {len(answer.body)} bytes",
    )
    scene.require(answer.seconds < FAST_SECONDS, f"a new blob was answered after {answer.seconds:.1f} s")


@attack("one cached blob is requested under 1,000 made-up repository names", cache=SMALL_VOLUME)
def made_up_repositories(scene: Scene) -> None:
    image, digest = push_forty(scene), oci.digest(scene.bed.image.layers[0])
    scene.flood_to_end(f"/v2/made/up/{'deep/' * 20}n{{n}}/blobs/{digest}", at_once=8, total=1000)
    scene.require((links := scene.links("made")) <= MAX_LINKS, f"{links} links for made-up repositories")
    scene.require((stored := scene.stored(image)) == len(image.blobs), f"{stored} of {len(image.blobs)} blobs are left")


@attack("requests for unknown digests, each hung up at once, 300 at a time")
def unknown_digests(scene: Scene) -> None:
    scene.flood("/v2/hostile/missing/x/blobs/{d}", at_once=300, hangs_up=0.0)
    time.sleep(SECONDS)
    ask_for_new_blob(scene, "beside-unknown")


@attack("3,000 requests at a time for blobs of a repository for which the upstream is silent")
def held_requests(scene: Scene) -> None:
    scene.flood("/v2/hostile/silent/x/blobs/{d}", at_once=3000)
    time.sleep(SECONDS)
    ask_for_new_blob(scene, "beside-held")
    time.sleep(SECONDS)


@attack("manifests of 4 MiB with a million small objects, 8 at a time")
def huge_manifests(scene: Scene) -> None:
    scene.flood("/v2/hostile/huge/x/manifests/t{n}", at_once=8)
    time.sleep(SECONDS)


@attack("5,000 connections with 31 kB of unfinished headers each")
def unfinished_headers(scene: Scene) -> None:
    scene.flood("/v2/", at_once=5000, unfinished=31_000)
    time.sleep(SECONDS)


@attack("5,000 connections with 450 small headers each that are unfinished")
def unfinished_small_headers(scene: Scene) -> None:
    """A small header takes ten times as much memory as it has bytes, so the front refuses some connections."""
    scene.may_be_refused = True
    scene.flood("/v2/", at_once=5000, unfinished=1, headers={f"{number:x}": "" for number in range(450)})
    time.sleep(SECONDS)


@attack("40 connections ask for a digest under made-up repositories while a node asks for it under its own")
def joined_fetches(scene: Scene) -> None:
    for number in range(3):
        name = f"starved-{number}"
        image = scene.bed.push(name, 1, MIB)
        digest = oci.digest(image.layers[0])
        flood = scene.flood(f"/v2/hostile/missing/x{{n}}/blobs/{digest}", at_once=40)
        time.sleep(1)
        answer = scene.get(f"/v2/library/{name}/blobs/{digest}")
        scene.require(answer.status == http.client.OK, f"the node's blob was answered with {answer.status}")
        scene.require(answer.seconds < FAST_SECONDS, f"the node's blob was answered after {answer.seconds:.1f} s")
        scene.end_flood(flood)


@attack("five blobs of 100 MiB are requested, and the client hangs up at once")
def abandoned_fetches(scene: Scene) -> None:
    scene.flood_to_end("/v2/hostile/long/x/blobs/{d}", total=LONG_BLOBS, at_once=1, hangs_up=0.5)
    deadline, sent = time.monotonic() + ABANDONED_SECONDS, -1
    while (now := scene.bed.sent_bytes("hostile/long")) != sent:
        if time.monotonic() > deadline:
            scene.require(holds=False, otherwise=f"{now // MIB} MiB were fetched for nobody, and more come")
            return
        sent = now
        time.sleep(3)


@attack("a bounded range of a blob that is still coming is requested")
def range_of_incoming_blob(scene: Scene) -> None:
    name = "ranged"
    image = scene.bed.push(name, 1, 24 * MIB)
    digest = oci.digest(image.layers[0])
    path = f"/v2/hostile/slow/library/{name}/blobs/{digest}"
    flood = scene.flood(path, at_once=1, total=1)
    time.sleep(2)
    answer = scene.get(path, Range=f"bytes=0-{RANGE_BYTES - 1}")
    is_right = answer.status == http.client.PARTIAL_CONTENT and answer.body == image.layers[0][:RANGE_BYTES]
    is_refused = answer.whole and answer.status >= http.client.BAD_REQUEST
    scene.require(is_right or is_refused, f"status {answer.status}, {len(answer.body)} of {RANGE_BYTES} bytes")
    scene.require(answer.seconds < FAST_SECONDS, f"answered after {answer.seconds:.1f} s")
    scene.end_flood(flood)


@attack("lists of repositories and tags, and debug pages, are requested")
def foreign_endpoints(scene: Scene) -> None:
    for path in ("/v2/_catalog", f"/v2/library/{HONEST}/tags/list", "/debug/vars"):
        answer = scene.get(path)
        scene.require(answer.status == http.client.NOT_FOUND, f"{path}: status {answer.status}")
    for path in ("/debug/pprof/", "/debug/vars"):
        answer = ask(f"http://{scene.pod.address}:5002{path}")
        scene.require(answer.status in {0, http.client.NOT_FOUND}, f"port 5002, {path}: status {answer.status}")


@attack("names with percent signs or of 8 kB are requested")
def odd_names(scene: Scene) -> None:
    log_bytes = len(scene.pod.log("distribution"))
    for name in ("library/%68onest", f"library/{'x' * 7900}", "Library/Honest"):
        answer = scene.get(f"/v2/{name}/manifests/1")
        is_refused = http.client.BAD_REQUEST <= answer.status < http.client.INTERNAL_SERVER_ERROR
        scene.require(is_refused, f"/v2/{name[:20]}…: status {answer.status}")
        scene.require(len(answer.body) <= MAX_ERROR_BYTES, f"/v2/{name[:20]}…: {len(answer.body)} bytes of error")
    logged = len(scene.pod.log("distribution")) - log_bytes
    scene.require(logged <= MAX_ERROR_BYTES, f"distribution logged {logged} bytes")


@attack(f"{TOKENS:,} right and as many wrong tokens are shown for one private repository", **PULLERS)
def different_tokens(scene: Scene) -> None:
    path, padding = "/v2/hostile/private/x/manifests/1", "x" * TOKEN_BYTES
    scene.require((answer := scene.get(path)).status == http.client.UNAUTHORIZED, f"status {answer.status}")
    before = scene.limits.memory["gate"].sample()
    asked, begun = scene.bed.count_requests("private"), time.monotonic()
    # Wrong ones come last: after those, the cache asks about no other one of this address for a while.
    for kind in ("right", "wrong"):
        headers = {"Authorization": f"Bearer {kind}{{n}}{padding}"}
        scene.flood_to_end(path, at_once=64, total=TOKENS, headers=headers)
    asked = scene.bed.count_requests("private") - asked
    most = MAX_ASKED * (1 + int((time.monotonic() - begun) / 60))
    scene.require(asked <= most, f"the upstream was asked {asked} times")
    grown = (scene.limits.memory["gate"].sample() - before) / MIB
    scene.require(grown <= MAX_GROWTH_MIB, f"the gate grew by {grown:.0f} MiB")
    answer = scene.get(path, Authorization="Bearer right-node")
    scene.require(answer.status == http.client.OK, f"a node with a right token was answered with {answer.status}")
    scene.require(answer.seconds < FAST_SECONDS, f"a node was answered after {answer.seconds:.1f} s")
