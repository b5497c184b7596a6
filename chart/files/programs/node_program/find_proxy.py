"""Find out whether containerd uses an HTTP proxy, and leave the result for the node program.

This runs once, in a container that ends before the node program starts. It reads how systemd starts containerd. The
files of services may hold passwords, so that the node program, which runs all the time, does not see them. The result
has no address of a proxy, because there may be a password in it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from common.log import describe_oserror, log

from node_program import configuration, containerd_proxy
from node_program.containerd_configuration import NodeFiles, Unknown
from node_program.containerd_proxy import ContainerdProxy, Service
from node_program.service_environment import Environment, read_environment

if TYPE_CHECKING:
    from node_program.configuration import ProxyCheck


def main(arguments: list[str]) -> int:
    """Write the result, or none if it is unknown, and return the exit code: 0, since the node program can do without.

    Two exceptions from that are a wrong configuration and a state directory that cannot be written.
    """
    settings = configuration.from_arguments(arguments, __doc__)
    if settings.proxy_check is None:
        print("nodeProgram.proxyCheck is not enabled", file=sys.stderr)
        return 2
    try:
        found = find(settings.proxy_check)
    except Unknown as problem:
        log(f"whether containerd uses an HTTP proxy is unknown: {problem}")
        found = None
    containerd_proxy.write(settings.state_directory, found)
    return 0


def find(check: ProxyCheck) -> ContainerdProxy:
    """Return what the units say.

    Raises:
        Unknown: The pod cannot see or cannot read one of the files that count.
    """
    for directory, mounted in check.mounts.items():
        try:
            next(mounted.iterdir(), None)
        except OSError as error:
            message = f"{directory} cannot be read: {describe_oserror(error)}"
            raise Unknown(message) from error
    node = NodeFiles(check.mounts)
    environments = [read_environment(unit, check.directories, node) for unit in check.units]
    return ContainerdProxy(tuple(service for found in environments if (service := _read_service(found))))


def _read_service(environment: Environment) -> Service | None:
    """Return what Go takes from an environment; the first of two spellings that has a value counts."""
    http = _first(environment, "HTTP_PROXY")
    https = _first(environment, "HTTPS_PROXY")
    if not (http or https):
        return None
    return Service(
        http=environment[http].file if http else "",
        https=environment[https].file if https else "",
        no_proxy=environment[name].value if (name := _first(environment, "NO_PROXY")) else "",
    )


def _first(environment: Environment, name: str) -> str:
    return next((one for one in (name, name.lower()) if one in environment and environment[one].value), "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
