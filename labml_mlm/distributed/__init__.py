"""
# Data parallelism

The environment of torchrun comes in; a process group, and a model that is replicated or sharded over it, go out. In a
single process all of that does nothing.

Start with `process_group`; `ranks()` tells your own code its rank.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'parallel': ['DDP', 'FSDP', 'SingleProcess'],
    'process_group': ['Ranks', 'ranks'],
})
