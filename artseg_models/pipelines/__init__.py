"""CellProfiler pipelines as text: reading them without losing a byte, and inserting SegmentArtifacts."""
