"""The client of a cache's upstream registry."""
