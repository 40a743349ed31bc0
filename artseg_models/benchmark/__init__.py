"""Measuring ArtSeg on the computer at hand; ratios come from one run, in which what is compared takes turns."""
