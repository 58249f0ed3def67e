"""
# The screen

Progress, metrics and messages come in; a live view on a terminal, or plain lines elsewhere, goes out.

Start with `live_view`; `console` says what the output is, and prints plain lines.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'progress_view': ['ProgressView'],
})
