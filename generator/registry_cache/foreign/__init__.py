"""Documents of other programs that name registries: each is recognized by its shape and turned into a RegistryConfig.

`mirrors` has what these documents say about registries and makes caches of it. `files` knows the configuration files of
container runtimes and registries, `resources` those that have an apiVersion and a kind, and `wrapped` documents that
contain others. `recognize` tries all of them.

The shapes are those of the programs' public documentation: docs.k3s.io (private-registry), Talos' reference of the
machine configuration, containerd's docs/hosts.md and docs/cri/registry.md, Kyma's RegistryCacheConfig, the charts of
Spegel, and docs.docker.com for daemon.json.
"""
