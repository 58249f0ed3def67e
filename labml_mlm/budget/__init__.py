"""
# Budgets

What a run may take, as epochs, steps, tokens or minutes, comes in; the number of its steps goes out.

Start with `configs`, which knows steps alone from there on. `count` counts the steps that some tokens take, and `speed`
measures those of some minutes; `resumed` keeps both for a resumed run.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'count': ['steps_for_tokens'],
    'speed': ['Speed', 'measure'],
})
