"""
# Optimization

Parameters, gradients and the progress of training come in; updated parameters and learning rates go out.

Start with `optimizer` (all optimizers by name), then `muon` and `schedules`.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'muon': ['Muon', 'MuonAdamW'],
    'optimizer': ['MLMOptimizerConfigs', 'MuonConfigs'],
})
