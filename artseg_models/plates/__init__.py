"""A plate's own report: how much of it is artifact, where, and what that does to its measurements."""
