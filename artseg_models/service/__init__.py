"""The inference service: one process that loads a model once and serves every CellProfiler worker.

Started by CellProfiler's module or by `artseg serve`; found through a rendezvous file; ends by itself when idle.
"""
