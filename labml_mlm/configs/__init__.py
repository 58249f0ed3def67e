"""
# Configs

Names and values come in; the objects of a run go out. Each file adds the items of one part, and the options for them:
`text`, `tokenizer`, `tokens`, `masking`, `model`, `optimization`, `training`, `mlm`. `overrides` parses `name=value`,
and `snapshot` saves what a run was given.

Start with `mlm`, where a step is taken.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'mlm': ['MLMConfigs'],
})
