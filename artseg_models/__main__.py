"""`python -m artseg_models` is `artseg`."""

from artseg_models.cli import main

main()
