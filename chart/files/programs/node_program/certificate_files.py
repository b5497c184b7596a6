"""The files with certificates that a hosts.toml names: authorities, and the nodes' own certificate with its key.

They are beside the folders of the registry directory. At each pull, containerd reads a hosts.toml and then the files
that it names, and the pull fails if one is missing. So a file never changes: its name has the digest of its content,
it is there before the hosts.toml that names it, and it goes a while after the last one that did. All functions are
called under the lock of the registry directory.
"""

from __future__ import annotations

import stat
import time
from hashlib import sha256
from typing import TYPE_CHECKING

from common.files import flush_folder, write_and_flush

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Longer than containerd takes from reading a hosts.toml to reading what it names.
GRACE_SECONDS = 1.0
# A key is in the file of its certificate, and containerd looks for it there (hosts.go, tlsConfigFromHost).
AUTHORITIES, WITH_KEY = ".registry-cache-{}.crt", ".registry-cache-{}.pem"
MODES = {AUTHORITIES: 0o644, WITH_KEY: 0o600}


def install(root: Path, kind: str, certificates: str) -> str:
    """Write AUTHORITIES or a certificate WITH_KEY, unless they are there, and return their path from a hosts.toml.

    Raises:
        OSError: They cannot be written.
    """
    content = certificates.encode()
    name = kind.format(sha256(content).hexdigest()[:16])
    file = root / name
    if not file.is_file() or stat.S_IMODE(file.stat().st_mode) != MODES[kind] or file.read_bytes() != content:
        temporary = root / f"{name}.new"
        write_and_flush(temporary, content, MODES[kind])
        temporary.rename(file)
        flush_folder(root)
    return f"../{name}"


def remove_unused(root: Path, read: Callable[[Path], str | None]) -> None:
    """Remove the files that no hosts.toml names any more, those of releases that were killed included.

    `read` returns the text of a file, or None if it does not exist. If that fails, no file is removed.

    Raises:
        OSError: They cannot be removed.
    """
    names = [f"{kind.format('*')}{end}" for kind in MODES for end in ("", ".new")]
    files = [file for name in names for file in root.glob(name)]
    if not files:
        return
    named = ""
    for hosts in root.glob("*/hosts.toml"):
        try:
            named += read(hosts) or ""
        except OSError:
            # It may name each of them, and containerd may be able to read it. The next call looks again.
            return
    unused = [file for file in files if file.name not in named]
    if unused:
        time.sleep(GRACE_SECONDS)
    for file in unused:
        file.unlink(missing_ok=True)
