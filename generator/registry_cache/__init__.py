"""Checks a RegistryConfig and turns it into a Helm chart of pull-through registry caches."""
