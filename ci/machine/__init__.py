"""What the tests need of this machine: pinned programs, a clean environment, processes, control groups and networks."""


class SetupFailed(Exception):
    """A program that the tests need could not be built or downloaded; the message says why."""
