"""The gate of a cache pod, which decides how each request is answered and fetches from the upstream."""
