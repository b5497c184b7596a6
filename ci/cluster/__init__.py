"""A real Kubernetes for the tests and the demo, and cache pods without one.

`cli` is the entry point; `native`, `kind` and `existing` the three kinds of cluster; `interface` is what they share.
"""
