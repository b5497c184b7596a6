"""The program on each node, which points containerd to the caches that answer."""
