"""How a cache pod asks its upstream registry."""
