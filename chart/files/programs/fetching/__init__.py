"""Brings blobs from the upstream into the volume, for the gate."""
