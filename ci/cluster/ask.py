"""Describes the response of a server; runs on a node as `python ask.py ADDRESS PORT PATH`.

This is not the probe of the node program: a proof that a fault is in place must not share its mistakes.
"""

from __future__ import annotations

import re
import socket
import sys
import time

LIMIT_SECONDS = 1.0
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def ask(address: str, port: int, path: str) -> str:
    """Return `status 200, 2 of 2 bytes`, or what is missing of that after a second."""
    deadline = time.monotonic() + LIMIT_SECONDS
    lines = (f"GET {path} HTTP/1.1", f"Host: {address}:{port}", f"Accept: {MANIFEST}", "Connection: close")
    request = "\r\n".join([*lines, "", ""])
    try:
        connection = socket.create_connection((address, port), timeout=LIMIT_SECONDS)
    except TimeoutError:
        return "no connection"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    answer, ended = b"", False
    with connection:
        connection.sendall(request.encode())
        while not ended and (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            try:
                part = connection.recv(65536)
            except TimeoutError:
                break
            except OSError as error:
                return (error.strerror or str(error)).lower()
            answer, ended = answer + part, not part
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return f"{len(answer)} bytes of a head"
    length = LENGTH.search(head)
    return f"status {head.split()[1].decode()}, {len(body)} of {length[1].decode() if length else '?'} bytes"


if __name__ == "__main__":
    print(ask(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
