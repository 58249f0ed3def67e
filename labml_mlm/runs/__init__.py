"""
# Runs on the disk

The folder of a run comes in; its configs, metrics, samples and checkpoints go out, and the other way round. Nothing
here imports torch before tensors are read.

Start with `run`.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'checkpoint': ['Checkpoint'],
    'checkpoint_folder': ['CheckpointFolder'],
    'run': ['Run', 'find_run', 'list_runs'],
})
