"""
# Commands on runs

Parsed arguments come in; what a run is, where it lies beside the curve of its recipe, how two differ, its metrics as a
file, or its deletion goes out. Nothing here imports torch.

Start with `arguments`, which declares them.
"""
