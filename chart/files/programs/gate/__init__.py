"""The gate of a cache pod: it answers the front and fetches from the upstream."""
