"""Model Zoo packages: writing them from a run, reading them, checking them.

Reading needs neither torch nor bioimageio.core; running a package never runs its author's Python.
"""
