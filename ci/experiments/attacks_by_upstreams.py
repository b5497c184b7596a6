"""Attacks by whoever can give an upstream content, or be one: odd manifests, bodies, tokens and redirects."""

from __future__ import annotations

import http.client
import time
from typing import TYPE_CHECKING

from machine.processes import wait_for
from upstreams import oci

from experiments.attack_bed import MIB
from experiments.attacks import attack
from experiments.attacks_by_clients import FAST_SECONDS, SECONDS, SMALL_VOLUME, push_forty

if TYPE_CHECKING:
    from experiments.attack_bed import Scene

# A fetch whose bytes come slower than a least rate must end after about a minute.
SLOW_SECONDS = 75.0
MANY_SLOTS = 130
READY_SECONDS = 40.0
MAX_TOKEN_GROWTH_MIB = 64
LINK_LOCAL = b"169.254"


def require_manifest(scene: Scene, name: str, after: str) -> None:
    """Require that a manifest that the cache does not have comes at once."""
    image = scene.bed.push(name, 1, 1000)
    answer = scene.get(f"/v2/library/{name}/manifests/1")
    right = answer.status == http.client.OK and answer.body == image.manifest
    scene.require(right, f"after {after}, a manifest of another repository was answered with {answer.status}")
    scene.require(answer.seconds < FAST_SECONDS, f"after {after}, a manifest came after {answer.seconds:.1f} s")


def require_most(scene: Scene, image: oci.Image, least: int) -> None:
    stored = scene.stored(image)
    scene.require(stored >= least, f"{stored} of {len(image.blobs)} blobs are left")


@attack("manifests of 18 kB whose JSON is nested 9,000 deep")
def nested_manifests(scene: Scene) -> None:
    for number in range(5):
        scene.get(f"/v2/hostile/nested/x/manifests/t{number}")
        scene.require(scene.get("/v2/").status == http.client.OK, "the gate does not answer any more")


@attack("a blob without a length that never ends", cache=SMALL_VOLUME)
def endless_blob(scene: Scene) -> None:
    image = push_forty(scene)
    scene.flood("/v2/hostile/endless/x/blobs/{d}", at_once=1, total=3)
    time.sleep(SECONDS)
    require_most(scene, image, 30)


@attack("a blob of 60 MiB of which a byte comes each five seconds", cache=SMALL_VOLUME)
def dripping_blob(scene: Scene) -> None:
    image = scene.bed.push("beside-drip", 1, 60 * MIB)
    digest = oci.digest(image.layers[0])
    scene.flood("/v2/hostile/drip/x/blobs/{d}", at_once=1, total=1, hangs_up=120.0)
    time.sleep(SLOW_SECONDS)
    answer = scene.get(f"/v2/library/beside-drip/blobs/{digest}")
    scene.require(answer.status == http.client.OK, f"a blob that needs the room was answered with {answer.status}")


@attack("a repository whose blobs are on a host that refuses connections")
def refused_redirect(scene: Scene) -> None:
    scene.get(f"/v2/hostile/redirect-refused/x/blobs/{oci.digest(b'x')}")
    require_manifest(scene, "beside-redirect", "a redirect to a host that refuses")


@attack("a repository whose challenge names a token server without a host")
def relative_token_server(scene: Scene) -> None:
    scene.get("/v2/hostile/relative-realm/x/manifests/1")
    require_manifest(scene, "beside-realm", "a challenge with a relative token server")


@attack("a repository for which the upstream takes 12 s to answer")
def slow_answer(scene: Scene) -> None:
    scene.get("/v2/hostile/slow-answer/x/manifests/1")
    require_manifest(scene, "beside-slow", "a slow answer")


@attack("380 manifests of 250 kB, after which an image is pulled again", cache=SMALL_VOLUME)
def many_manifests(scene: Scene) -> None:
    """Content that is used less recently goes first, but manifests must not keep more than a share from layers."""
    image = push_forty(scene)
    scene.flood_to_end("/v2/hostile/padded/x/manifests/t{n}", at_once=8, total=380)
    for digest in image.blobs:
        scene.get(f"/v2/library/forty/blobs/{digest}")
    require_most(scene, image, 38)


@attack("650 manifests with the names of 999 layers each, an index of 500 of them, and a restart of the gate")
def manifests_of_many_layers(scene: Scene) -> None:
    scene.flood_to_end("/v2/hostile/many-layers/x/manifests/{n}", at_once=4, total=650)
    scene.flood_to_end("/v2/hostile/index/x/manifests/i{n}", at_once=1, total=20)
    time.sleep(2)
    scene.own_restarts += 1
    scene.pod.kill("gate")
    time.sleep(2)
    wait_for("the gate to be ready after a restart", scene.pod.is_ready, READY_SECONDS)


@attack("trailers without an end, on as many fetches as there may be")
def endless_trailers(scene: Scene) -> None:
    scene.flood("/v2/hostile/trailers/x/blobs/{d}", at_once=MANY_SLOTS, total=MANY_SLOTS, hangs_up=100.0)
    time.sleep(SLOW_SECONDS)
    image = scene.bed.push("beside-trailers", 1, MIB)
    answer = scene.get(f"/v2/library/beside-trailers/blobs/{oci.digest(image.layers[0])}")
    scene.require(answer.status == http.client.OK, f"a new blob was answered with {answer.status}")


@attack("40 answers at a time with headers of 6 MB")
def large_headers(scene: Scene) -> None:
    scene.flood("/v2/hostile/headers/x{n}/manifests/1", at_once=40)
    time.sleep(SECONDS)


@attack("3,000 repositories, each with a token of 32 kB")
def many_tokens(scene: Scene) -> None:
    before = scene.limits.memory["gate"].sample()
    scene.flood_to_end("/v2/hostile/tokens/r{n}/manifests/1", at_once=8, total=3000)
    grown = (scene.limits.memory["gate"].sample() - before) / MIB
    scene.require(grown <= MAX_TOKEN_GROWTH_MIB, f"the gate grew by {grown:.0f} MiB")


@attack("a token whose lifetime has 400 digits")
def endless_token(scene: Scene) -> None:
    for _ in range(2):
        answer = scene.get("/v2/hostile/endless-tokens/x/manifests/1")
        scene.require(answer.status >= http.client.BAD_REQUEST, f"status {answer.status}")
        scene.require(answer.status != http.client.BAD_GATEWAY, "the gate did not answer")


@attack("redirects to the link-local address where clouds keep credentials")
def link_local_redirect(scene: Scene) -> None:
    answer = scene.get(f"/v2/hostile/redirect-link-local/x/blobs/{oci.digest(b'x')}")
    scene.require(answer.status >= http.client.BAD_REQUEST, f"status {answer.status}")
    scene.require(LINK_LOCAL not in answer.body, f"the client was told: {answer.body.decode(errors='replace')}")
