"""
# Tokenization

Text comes in; token ids go out, from the token cache if they are known.

Start with `base`, what every tokenizer has. `character` and `subword` are the two kinds; `train_tokenizer` and
`patterns` make the second from a text. `token_cache` stores tokens, which come as `encoded`, and `losses`
counts what they do not keep.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'base': ['SPECIAL_TOKENS', 'SpecialTokens', 'Tokenizer'],
    'character': ['CharacterTokenizer'],
    'subword': ['SubwordTokenizer'],
    'token_cache': ['TokenCache'],
})
