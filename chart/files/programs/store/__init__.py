"""The volume of a cache pod: what is stored on it, and how room is made."""
