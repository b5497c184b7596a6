"""Real upstream registries, their token servers and their faults."""
