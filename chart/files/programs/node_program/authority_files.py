"""The files with the authorities of caches with TLS, which a hosts.toml names.

They are beside the folders of the registry directory. At each pull, containerd reads a hosts.toml and then the files
that it names, and the pull fails if one is missing. So a file never changes: its name has the digest of its content,
it is there before the hosts.toml that names it, and it goes a while after the last one that did. All functions are
called under the lock of the registry directory.
"""

from __future__ import annotations

import time
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING

from common.files import flush_folder, write_and_flush

if TYPE_CHECKING:
    from pathlib import Path

# Longer than containerd takes from reading a hosts.toml to reading what it names.
GRACE_SECONDS = 1.0
NAME = ".registry-cache-{}.crt"
MODE = 0o644


def install(root: Path, authorities: str) -> str:
    """Write certificates, unless they are there, and return their path from a hosts.toml.

    Raises:
        OSError: They cannot be written.
    """
    content = authorities.encode()
    name = NAME.format(sha256(content).hexdigest()[:16])
    file = root / name
    if not file.is_file() or file.read_bytes() != content:
        temporary = root / f"{name}.new"
        write_and_flush(temporary, content, MODE)
        temporary.rename(file)
        flush_folder(root)
    return f"../{name}"


def remove_unused(root: Path) -> None:
    """Remove the files that no hosts.toml names any more, those of releases that were killed included.

    Raises:
        OSError: They cannot be removed.
    """
    files = [*root.glob(NAME.format("*")), *root.glob(f"{NAME.format('*')}.new")]
    if not files:
        return
    named = ""
    for hosts in root.glob("*/hosts.toml"):
        with suppress(OSError):
            named += hosts.read_text(encoding="utf-8", errors="replace")
    unused = [file for file in files if file.name not in named]
    if unused:
        time.sleep(GRACE_SECONDS)
    for file in unused:
        file.unlink(missing_ok=True)
