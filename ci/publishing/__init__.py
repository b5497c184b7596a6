"""Releases: what is built from a tag, signed and pushed, and the command that updates the pinned versions."""


class CannotRelease(Exception):
    """The release cannot be built or pushed; the message says why, and what to do."""
