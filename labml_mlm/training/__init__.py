"""
# Training

Model, batches and optimizer come in; steps, metrics and checkpoints go out.

Start with `loop`, which calls `MLMConfigs.step` for each batch, and `engine`, which runs forward and backward; `state`
is what a checkpoint holds.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'checkpointer': ['Checkpointer'],
    'engine': ['Engine'],
    'loop': ['TrainingLoop', 'ValidationLoop'],
    'signals': ['SignalHandler', 'Stopped'],
})
