"""The client of a cache's upstream registry, and the choice between the upstream and another replica."""
