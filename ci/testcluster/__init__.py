"""A real Kubernetes for the tests and the demo, and a real upstream registry beside it.

`cli` is the entry point; `native`, `kind` and `existing` the three kinds of cluster; `interface` is what they share.
"""
