"""Real upstream registries, their token server, and servers with faults."""
