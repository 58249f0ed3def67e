"""
# Items of configs

How they are declared, listed (`schema`), given by name (`overrides`), shown (`help`) and checked. What other tools call
them (`other_names`), the values of recipes, which items nothing reads, and configs that are trained again.

Start with `declarations`.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'declarations': ['DeclaredConfigs', 'Item', 'Range'],
})
