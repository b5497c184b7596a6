"""A real Kubernetes for the tests and the demo, and cache pods without Kubernetes.

`cli` is the entry point. `native`, `kind` and `existing` are the three kinds of cluster, with a common `interface`.
"""
