"""
# The model

Token ids come in; hidden states, logits and the masked loss go out.

Start with `transformer`, then `encoder` and `attention`. Another architecture is another file next to `transformer`;
`pairs` is the head for pairs of sentences.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'attention': ['SDPA', 'Attention'],
    'encoder': ['MLMEncoder'],
    'transformer': ['MLMOutput', 'MLMTransformerConfigs', 'TransformerMLM'],
})
