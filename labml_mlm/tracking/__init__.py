"""
# Tracking

Runs come in; the labml app gets them. The log on the disk is in `runs`.

Start with `uploader`, which sends a run to the app while it trains, and `sync`, which brings an app up to date.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'uploader': ['AppUploader'],
})
