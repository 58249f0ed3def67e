"""
# Baselines

The tokens of a text come in; what a loss on it means goes out: the loss and accuracy of guesses that need no model, the
bits that a character costs, and whether a run is stuck.

Start with `guesses`, which explains the guesses; `counts` has what they know of the training text, `masked` what they
see of a validation. `measured` puts them together, `configs` into a run; `stuck` watches the loss.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'counts': ['Counts'],
    'guesses': ['Guess'],
    'measured': ['measure'],
})
