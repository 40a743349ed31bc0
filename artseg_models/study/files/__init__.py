"""Studies that come with ArtSeg: `artseg study --list`."""
