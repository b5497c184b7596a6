"""The configuration of the nginx that stands before all upstream registries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from upstreams import access_log
from upstreams.sites import CONTENT_PORT, CONTROL_PORT, FAULT_PORT, HOSTS, SITES
from upstreams.upstream_faults import UpstreamFault

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def nginx_configuration(
    folder: Path,
    address: str,
    faults: Mapping[str, UpstreamFault],
    generation: str,
    connection_bytes_per_second: int | None = None,
) -> str:
    """Return it for files in `folder`, relative to which nginx runs; the control port answers with `generation`.

    nginx limits each response, which is the same as each connection: HTTP/1.1 has one response at a time.
    """
    limit = f"\n  limit_rate {connection_bytes_per_second};" if connection_bytes_per_second else ""
    servers = []
    for name, (host, port) in HOSTS.items():
        fault = faults.get(name, UpstreamFault())
        certificate = "expired" if fault.expired else "server"
        # S3 does the same: it refuses a request that has both a signed URL and credentials.
        refusal = "if ($http_authorization) { return 400; } " if port == CONTENT_PORT else ""
        servers.append(
            f"""
  server {{
    listen {address}:443 ssl;
    server_name {host};
    ssl_certificate "{folder}/{certificate}.pem";
    ssl_certificate_key "{folder}/{certificate}.key";
    location / {{ {refusal}{fault.directives(name, address, port, FAULT_PORT)} }}
    location @nothing {{ return 444; }}
  }}"""
        )
    servers += [
        f"""
  server {{
    listen {address}:{CONTENT_PORT};
    access_log off;
    default_type application/octet-stream;
    location / {{ root "{folder}/storage/{site.upstream}"; }}
  }}"""
        for site in SITES
        if site.content
    ]
    return f"""daemon off;
user root;
worker_processes 1;
pid "{folder}/nginx.run";
error_log "{folder}/nginx-error.log" warn;
events {{ worker_connections 4096; }}
http {{
  map $http_authorization $authorization_scheme {{ ~^(?<first>[A-Za-z]+) $first; }}
  log_format line escape=json '{access_log.FORMAT}';
  access_log "{folder}/access.log" line;
  client_body_temp_path "{folder}/tmp-body";
  proxy_temp_path "{folder}/tmp-proxy";
  fastcgi_temp_path "{folder}/tmp-fastcgi";
  uwsgi_temp_path "{folder}/tmp-uwsgi";
  scgi_temp_path "{folder}/tmp-scgi";
  client_max_body_size 0;
  # A cache opens connections before it needs them. One without a request keeps an old worker from ending for this long.
  client_header_timeout 2s;
  proxy_max_temp_file_size 0;
  proxy_http_version 1.1;{limit}
  server {{
    listen {address}:{CONTROL_PORT};
    location / {{ return 200 '{generation}'; }}
  }}{"".join(servers)}
}}
"""
