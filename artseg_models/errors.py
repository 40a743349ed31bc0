"""The one exception that ArtSeg raises on purpose."""


class ArtSegError(Exception):
    """A problem that the user can mend.

    The message says what was expected, what came, and what to do; the command line prints it as it is and
    exits with 1, the service sends it to CellProfiler, which shows it.
    """
