"""Documents of other programs, in the shape of their documentation, with a password wherever they can have one."""

from __future__ import annotations

import json
from typing import NamedTuple

PASSWORD = "hunter2"
# The same, as `auth` has it.
ENCODED = "dXNlcjpodW50ZXIy"


class Foreign(NamedTuple):
    """A document, the name of its file, what it is, and the upstreams that its caches have."""

    file: str
    text: str
    title: str
    upstreams: list[str]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The title, for the names of tests."""
        return self.title


K3S = """
mirrors:
  docker.io:
    endpoint:
      - "https://user:hunter2@mirror.example.com:5000/v2/hub"
    rewrite:
      "^(.*)$": "hub/$1"
  quay.io:
    endpoint: ["http://c"]
  gcr.io:
  "*":
    endpoint: ["https://mirror.example.com:5000"]
  registry.lab:5000:
    endpoint: ["http://registry.lab:5000"]
  mirror.example.com:5000: {}
  localhost:5000: {}
  myregistry: {}
  registry.tools.svc.cluster.local:5000: {}
configs:
  "mirror.example.com:5000":
    auth: {username: user, password: hunter2}
    tls: {ca_file: /etc/ssl/mirror.pem}
  ghcr.io:
    auth: {auth: dXNlcjpodW50ZXIy}
    tls: {ca_file: /etc/ssl/ghcr.pem}
  quay.io:
    tls: {insecure_skip_verify: true, cert_file: /c, key_file: /k}
"""
TALOS = """
machine:
  registries:
    mirrors:
      docker.io:
        endpoints: [http://10.5.0.1:5000, https://registry-1.docker.io]
        skipFallback: true
      registry.k8s.io:
        endpoints: [http://10.5.0.1:5001]
        overridePath: true
    config:
      registry-1.docker.io:
        auth: {username: user, password: hunter2}
      registry.k8s.io:
        auth: {identityToken: hunter2}
"""
TALOS_DOCUMENTS = """
apiVersion: v1alpha1
kind: RegistryMirrorConfig
name: docker.io
endpoints:
  - url: https://harbor.example.com/v2/hub
    overridePath: true
skipFallback: true
---
apiVersion: v1alpha1
kind: RegistryMirrorConfig
name: 10.5.0.1:8081
endpoints:
  - url: http://10.5.0.1:8081
---
apiVersion: v1alpha1
kind: RegistryAuthConfig
name: ghcr.io
username: user
password: hunter2
---
apiVersion: v1alpha1
kind: RegistryTLSConfig
name: ghcr.io
ca: |-
  -----BEGIN CERTIFICATE-----
  hunter2
---
apiVersion: v1alpha1
kind: HostnameConfig
hostname: node-1
"""
CONTAINERD = """
version = {version}
root = "/var/lib/containerd"

[plugins."{plugin}".registry]
  config_path = ""
  [plugins."{plugin}".registry.mirrors."docker.io"]
    endpoint = ["https://registry-1.docker.io", "http://cache.example.com:5000"]
  [plugins."{plugin}".registry.mirrors."*"]
    endpoint = ["http://cache.example.com:5000"]
  [plugins."{plugin}".registry.configs."ghcr.io".auth]
    username = "user"
    password = "hunter2"
  [plugins."{plugin}".registry.headers]
    X-Token = ["hunter2"]
"""
HOSTS = """
server = "https://registry-1.docker.io"

[host."https://user:hunter2@mirror.example.com"]
  capabilities = ["pull", "resolve"]
  ca = "/etc/ssl/ca.pem"
  override_path = true
  [host."https://user:hunter2@mirror.example.com".header]
    authorization = "Basic hunter2"
"""
CONFIG = "caches: [{upstream: docker.io, volume: {size: 20Gi}}]"
INDENTED = "caches:\n          - upstream: docker.io\n            volume: {size: 20Gi}"
DOCUMENTS = [
    Foreign(
        "registries.yaml",
        K3S,
        "a registries.yaml of k3s or RKE2",
        ["docker.io", "quay.io", "gcr.io", "ghcr.io"],
        (
            "* is left out: it stands for all registries",
            "registry-cache discover finds the registries",
            "registry.lab:5000 is left out: its only mirror is itself",
            "mirror.example.com:5000, with its certificate authority and login, is left out, because it is a mirror",
            "localhost:5000 is left out: it runs on the node itself",
            "myregistry is left out: the host of a registry has a dot or a port",
            "registry.tools.svc.cluster.local:5000 is left out: it is an address inside the cluster",
            "docker.io: the rewriting of image names is left out",
            "ghcr.io: the login is not copied; create a Secret ghcr-io with the keys username and password",
            "ghcr.io: the CA is left out",
            "quay.io: certificates are verified",
            "quay.io: the client certificate is left out",
            "the mirrors c, mirror.example.com:5000 are left out, because a cache fetches from the upstream itself",
        ),
    ),
    Foreign("r.json", '{"mirrors": {"quay.io": {"endpoint": ["http://c"]}}}', "a registries.yaml of k3s", ["quay.io"]),
    Foreign(
        "patch.yaml",
        TALOS,
        "a machine configuration of Talos",
        ["docker.io", "registry.k8s.io"],
        (
            "docker.io: the login is not copied; create a Secret docker-io ",
            "docker.io: nodes never pulled from the upstream itself; they do while the cache is away",
            "registry.k8s.io: the token is not copied",
        ),
    ),
    Foreign(
        "documents.yaml",
        TALOS_DOCUMENTS,
        "a RegistryMirrorConfig of Talos",
        ["docker.io", "ghcr.io"],
        (
            "10.5.0.1:8081 is left out: its only mirror is itself",
            "ghcr.io: the login is not copied; create a Secret ghcr-io ",
            "ghcr.io: the CA is left out",
        ),
    ),
    Foreign(
        "both.yaml",
        f"{TALOS}---{TALOS_DOCUMENTS}",
        "a machine configuration of Talos and a RegistryMirrorConfig of Talos",
        ["docker.io", "registry.k8s.io", "ghcr.io"],
    ),
    Foreign(
        "patch.json",
        '[{"op": "add", "path": "/machine/registries/mirrors", "value": {"ghcr.io": {"endpoints": ["http://c:1"]}}},'
        '{"op": "add", "path": "/machine/registries/mirrors/registry.example.com~1x", "value": {"endpoints": []}}]',
        "a JSON patch of Talos",
        ["ghcr.io", "registry.example.com"],
    ),
    *(
        Foreign(
            "config.toml",
            CONTAINERD.format(version=version, plugin=plugin),
            "containerd's config.toml",
            ["docker.io", "ghcr.io"],
            (
                "the mirror cache.example.com:5000 is left out",
                "ghcr.io: the login is not copied; create a Secret ghcr-io ",
                "the HTTP headers of registry.headers are left out",
            ),
        )
        for version, plugin in ((2, "io.containerd.grpc.v1.cri"), (3, "io.containerd.cri.v1.images"))
    ),
    Foreign(
        "config.toml",
        'version = 3\n[plugins."io.containerd.cri.v1.images".registry]\nconfig_path = "/etc/containerd/certs.d"\n',
        "containerd's config.toml, which names no registry that can have a cache; it says that the mirrors are in",
        [],
    ),
    Foreign("hosts.toml", HOSTS, "a hosts.toml of containerd", ["docker.io"]),
    Foreign(
        "certs.d/registry.example.com_5000_/hosts.toml",
        HOSTS,
        "a hosts.toml of containerd",
        ["registry.example.com:5000"],
        ("mirror.example.com, with its certificate authority and login, is left out",),
    ),
    Foreign("certs.d/_default/hosts.toml", HOSTS, "a hosts.toml of containerd, which names no registry that", []),
    Foreign(
        "hosts.toml",
        '[host."http://c:1"]\n  skip_verify = true\n',
        "a hosts.toml of containerd, which names no registry that can have a cache; its directory or its server says",
        [],
    ),
    Foreign(
        "kyma.yaml",
        "apiVersion: core.kyma-project.io/v1beta1\nkind: RegistryCacheConfig\nmetadata: {name: hub, namespace: test}\n"
        "spec:\n  upstream: docker.io\n  volume: {size: 100Gi}\n  garbageCollection: {ttl: 72h}\n"
        "  secretReferenceName: hub\n  http: {tls: true}\n",
        "a RegistryCacheConfig of Kyma",
        ["docker.io"],
        ("caches[0].secretReferenceName: create this Secret", "caches[0].http.tls: true became false"),
    ),
    Foreign(
        "kyma-list.yaml",
        "apiVersion: v1\nkind: List\nitems:\n"
        + "".join(
            "- apiVersion: core.kyma-project.io/v1beta1\n  kind: RegistryCacheConfig\n"
            f"  metadata: {{name: n}}\n  spec: {{upstream: {upstream}}}\n  status: {{state: Ready}}\n"
            for upstream in ("docker.io", "quay.io")
        ),
        "a List of 2 documents (2 RegistryCacheConfig) of Kyma",
        ["docker.io", "quay.io"],
    ),
    Foreign(
        "spegel.yaml",
        "spegel:\n  logLevel: INFO\n  mirroredRegistries: [https://docker.io, https://ghcr.io]\n"
        "  additionalMirrorTargets: [http://other.example.com:5000]\n",
        "a values file of Spegel",
        ["docker.io", "ghcr.io"],
    ),
    Foreign("old.yaml", "spegel: {registries: [https://docker.io]}", "a values file of Spegel", ["docker.io"]),
    Foreign(
        "spegel-all.yaml",
        "spegel: {mirroredRegistries: [], resolveTags: true}",
        "a values file of Spegel, which names no registry that can have a cache; its list is empty, which means all",
        [],
    ),
    Foreign("list.yaml", "- https://docker.io\n- ghcr.io\n", "a list of registries", ["docker.io", "ghcr.io"]),
    Foreign(
        "kind.yaml",
        "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\ncontainerdConfigPatches:\n- |-\n"
        '  [plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]\n    endpoint = ["http://hub:5000"]\n',
        "a Cluster of kind",
        ["docker.io"],
    ),
    Foreign(
        "distribution.yml",
        "version: 0.1\nstorage: {filesystem: {rootdirectory: /var/lib/registry}}\nproxy:\n"
        "  remoteurl: https://registry-1.docker.io\n  username: user\n  password: hunter2\n  ttl: 168h\n",
        "a configuration of distribution",
        ["docker.io"],
        ("docker.io: the login is not copied", "proxy.ttl is left out"),
    ),
    Foreign("registry.yml", "version: 0.1\nstorage: {}\nhttp: {addr: ':5000'}", "a configuration of distribution", []),
    Foreign(
        "daemon.json",
        '{"registry-mirrors": ["https://user:hunter2@mirror.example.com"], "log-driver": "json-file"}',
        "Docker's daemon.json",
        ["docker.io"],
    ),
    Foreign(
        "daemon.json", '{"exec-opts": ["native.cgroupdriver=systemd"]}', "Docker's daemon.json, which names no", []
    ),
    Foreign(
        "config.json",
        json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": ENCODED}, "ghcr.io": {"password": PASSWORD}}}),
        "Docker's config.json",
        ["docker.io", "ghcr.io"],
    ),
    Foreign(
        "harbor.json",
        json.dumps(
            [
                {
                    "id": 1,
                    "name": "hub",
                    "type": "docker-hub",
                    "url": "https://hub.docker.com",
                    "credential": {"access_key": "user", "access_secret": PASSWORD},
                },
                {"id": 2, "name": "quay", "type": "quay", "url": "https://quay.io", "credential": {}},
            ]
        ),
        "a list of Harbor's registries",
        ["docker.io", "quay.io"],
    ),
    Foreign("projects.json", '[{"project_id": 1, "name": "hub", "registry_id": 1}]', "a list of Harbor's projects", []),
    Foreign(
        "shoot.yaml",
        "apiVersion: core.gardener.cloud/v1beta1\nkind: Shoot\nspec:\n  extensions:\n  - type: registry-mirror\n"
        "    providerConfig:\n      apiVersion: mirror.extensions.gardener.cloud/v1alpha1\n      kind: MirrorConfig\n"
        "      mirrors: [{upstream: docker.io, hosts: [{host: 'https://mirror.gcr.io'}]}]\n",
        "a Shoot with the extension registry-mirror and without registry-cache",
        ["docker.io"],
        ("the mirror mirror.gcr.io is left out",),
    ),
    Foreign(
        "mirrors.yaml",
        "apiVersion: mirror.extensions.gardener.cloud/v1alpha1\nkind: MirrorConfig\n"
        "mirrors: [{upstream: docker.io, hosts: [{host: 'https://mirror.gcr.io'}]}]\n",
        "a MirrorConfig of Gardener",
        ["docker.io"],
    ),
    Foreign(
        "extension.yaml",
        "apiVersion: extensions.gardener.cloud/v1alpha1\nkind: Extension\nmetadata: {name: registry-cache}\nspec:\n"
        "  type: registry-cache\n  providerConfig:\n    apiVersion: registry.extensions.gardener.cloud/v1alpha3\n"
        "    kind: RegistryConfig\n    caches: [{upstream: docker.io, secretReferenceName: hub}]\n",
        "an Extension of Gardener",
        ["docker.io"],
        ("caches[0].secretReferenceName: create this Secret",),
    ),
    Foreign(
        "list-of-one.yaml",
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: core.gardener.cloud/v1beta1\n  kind: Shoot\n  spec:\n"
        f"    extensions: [{{type: registry-cache, providerConfig: {{{CONFIG}}}}}]\n",
        "a List of 1 documents (1 Shoot) with a Shoot",
        ["docker.io"],
    ),
    Foreign(
        "namespace.yaml",
        f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: a}}\n---\n{CONFIG}\n",
        "a file of 2 documents (1 Namespace) with a values file",
        ["docker.io"],
    ),
    Foreign(
        "release.yaml",
        f"apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nspec: {{values: {{{CONFIG}}}}}\n",
        "a HelmRelease of Flux",
        ["docker.io"],
    ),
    Foreign(
        "application.yaml",
        "apiVersion: argoproj.io/v1alpha1\nkind: Application\nspec:\n  source:\n    helm:\n      valuesObject:\n"
        f"        {INDENTED}\n",
        "an Application of Argo CD",
        ["docker.io"],
    ),
    Foreign(
        "sources.yaml",
        "apiVersion: argoproj.io/v1alpha1\nkind: Application\nspec:\n  sources:\n  - ref: values\n  - helm:\n"
        f"      values: |\n        {INDENTED}\n",
        "an Application of Argo CD",
        ["docker.io"],
    ),
    Foreign(
        "chart.yaml",
        f"apiVersion: helm.cattle.io/v1\nkind: HelmChart\nspec:\n  valuesContent: |\n        {INDENTED}\n",
        "a HelmChart of k3s",
        ["docker.io"],
    ),
    Foreign(
        "k3d.yaml",
        "apiVersion: k3d.io/v1alpha5\nkind: Simple\nregistries:\n  config: |\n    mirrors:\n"
        "      docker.io: {endpoint: ['http://user:hunter2@hub:5000']}\n",
        "a configuration of k3d with a registries.yaml of k3s or RKE2",
        ["docker.io"],
    ),
    Foreign("umbrella.yaml", f"registry-cache: {{{CONFIG}}}\nother: 1\n", "a values file of a parent", ["docker.io"]),
    Foreign(
        "deep.yaml",
        f"a: {{b: {{registry-cache: {{{CONFIG}}}}}}}\npassword: hunter2\n",
        "a values file of a parent chart",
        ["docker.io"],
    ),
    Foreign(
        "spegel-umbrella.yaml",
        "spegel: {spegel: {mirroredRegistries: [https://docker.io]}}\n",
        "a values file of a parent chart with a values file of Spegel",
        ["docker.io"],
    ),
    Foreign(
        "registries.conf",
        'unqualified-search-registries = ["docker.io"]\n[[registry]]\nprefix = "quay.io/team"\n'
        'location = "quay.io"\n[[registry.mirror]]\nlocation = "mirror.example.com/quay"\n',
        "a registries.conf of CRI-O or Podman",
        ["quay.io"],
    ),
    Foreign(
        "buildkitd.toml",
        '[registry."docker.io"]\n  mirrors = ["mirror.example.com"]\n',
        "a buildkitd.toml",
        ["docker.io"],
    ),
    Foreign(
        "user-data.toml",
        '[[settings.container-registry.mirrors]]\nregistry = "docker.io"\nendpoint = ["https://user:hunter2@c:1"]\n'
        '[[settings.container-registry.mirrors]]\nregistry = "*"\nendpoint = ["https://c:1"]\n'
        '[[settings.container-registry.credentials]]\nregistry = "ghcr.io"\npassword = "hunter2"\n',
        "a settings file of Bottlerocket",
        ["docker.io", "ghcr.io"],
    ),
    Foreign(
        "idms.yaml",
        "apiVersion: config.openshift.io/v1\nkind: ImageDigestMirrorSet\nspec:\n  imageDigestMirrors:\n"
        "  - {source: registry.redhat.io/openshift4, mirrors: [mirror.example.com/x]}\n",
        "an ImageDigestMirrorSet of OpenShift",
        ["registry.redhat.io"],
    ),
    Foreign(
        "rancher.yaml",
        "apiVersion: provisioning.cattle.io/v1\nkind: Cluster\nspec:\n  rkeConfig:\n    registries:\n"
        "      mirrors: {docker.io: {endpoint: ['https://c:1']}}\n      configs: {'c:1': {tls: {caBundle: x}}}\n",
        "a Cluster of Rancher with a registries.yaml of k3s or RKE2",
        ["docker.io"],
    ),
    Foreign("entry.yaml", "upstream: docker.io\n", "an entry of caches without that key", ["docker.io"]),
    Foreign(
        "entries.yaml",
        "- upstream: docker.io\n- {upstream: quay.io, secretReferenceName: quay}\n",
        "the list of caches without that key",
        ["docker.io", "quay.io"],
        ("caches[1].secretReferenceName: create this Secret",),
    ),
    Foreign("part.yaml", f"spec: {{{CONFIG}}}\n", "a part of a resource", ["docker.io"]),
    Foreign(
        "sops.yaml",
        "caches: ENC[AES256_GCM,data:hunter2]\nsops: {mac: hunter2}\n",
        "a file that SOPS has encrypted, which names no registry that can have a cache; decrypt it first",
        [],
    ),
    Foreign("Chart.yaml", "apiVersion: v2\nname: a\nversion: 1.0.0\n", "the Chart.yaml of a chart, which names", []),
    Foreign(
        "config.yaml", "token: hunter2\nembedded-registry: true\n", "a config.yaml of k3s or RKE2, which names", []
    ),
    Foreign("machine.yaml", "machine: {token: hunter2}\n", "a machine configuration of Talos, which names no", []),
    Foreign(
        "secret.yaml",
        f"apiVersion: v1\nkind: Secret\nstringData: {{password: {PASSWORD}}}\n",
        "a document of the kind Secret, which names no registry that can have a cache; registry-cache discover",
        [],
    ),
]
