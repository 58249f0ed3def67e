"""
# The command line

Arguments come in; a run, an answer, or a message for people goes out. `main` and `commands` are `labml-mlm`; `train` is
what a training script calls, `prepare` and `resume` what it does first.

Start with `train`.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'main': ['main'],
    'train': ['train'],
})
