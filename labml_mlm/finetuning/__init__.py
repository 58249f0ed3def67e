"""
# Fine-tuning

A pre-trained encoder and labelled texts come in; a classifier or a tagger goes out.

Start with `configs`, the whole run, then `heads`, what is trained, and `metrics`, how good it is.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'classification': ['ClassificationConfigs'],
    'configs': ['FineTuningConfigs'],
    'tagging': ['TaggingConfigs'],
})
