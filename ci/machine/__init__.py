"""What this machine gives to the tests: pinned programs, processes, control groups and networks."""
