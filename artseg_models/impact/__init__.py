"""What artifacts do to results: ligand affinity and nuclei, with artifacts removed and without."""
