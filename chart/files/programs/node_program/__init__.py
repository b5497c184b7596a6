"""The program on each node: it points containerd to the caches that answer."""
