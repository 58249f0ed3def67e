"""
# Another vocabulary for the weights of a model

The run has more tokens than what it goes on from (`vocab_extend`), or a tokenizer of its own, with the embeddings that
both have taken over.
"""
import json
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from labml.configs import BaseConfigs
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.distributed.process_group import ranks
from labml_mlm.tokenization.base import Tokenizer
from labml_mlm.tokenization.subword import FILE, SubwordTokenizer
from labml_mlm.vocabulary.embeddings import extended_embeddings, transferred_embeddings
from labml_mlm.vocabulary.extend import EXTENSION_VERSION, Extension, extend_vocabulary

# Weights with a row for each token
_ROWS = {'src_embed.tokens.weight', 'src_embed.weight', 'src_embed.linear.weight', 'generator.decoder.weight',
         'generator.decoder.bias', 'generator.projection.weight', 'generator.projection.bias'}


class Vocabulary(Protocol):
    """What becomes of the weights of another vocabulary."""
    # For people
    about: str

    def adapt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights by our names, with rows for the tokens of this vocabulary."""


class ExtendedVocabulary(NamedTuple):
    """The same tokens and more; the embedding of a new one is the mean of those that it was cut into."""
    extension: Extension

    @property
    def about(self) -> str:
        """What was added, for people."""
        before, after = self.extension.tokens_per_word
        gains = ''.join(f'\n  {count:8,} × {word}: {old} → {new}' for word, count, old, new in self.extension.gains)
        return (f'{len(self.extension.pieces):,} tokens added: {before:.3f} → {after:.3f} tokens per word'
                + f'. Most gained by{gains}' * bool(gains))

    def adapt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`Vocabulary.adapt`."""
        return {name: extended_embeddings(weight, self.extension.pieces, first_id=self.extension.first_id)
                if name in _ROWS else weight for name, weight in state.items()}


class OtherVocabulary:
    """Another tokenizer: tokens that both have keep their embeddings, the others are drawn anew."""

    def __init__(self, old: Tokenizer, new: Tokenizer, *, n_rows: int, seed: int):
        self._old, self._new, self._seed = old, new, seed
        _, n_kept = self._adapted(torch.zeros(n_rows))
        self.about = (f'Another tokenizer: {n_kept:,} of its {new.n_tokens:,} tokens keep their embeddings, the '
                      'others are drawn anew')

    def adapt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`Vocabulary.adapt`."""
        return {name: self._adapted(weight)[0] if name in _ROWS else weight for name, weight in state.items()}

    def _adapted(self, weight: Tensor) -> tuple[Tensor, int]:
        # Embeddings that the head shares are drawn twice, and must be the same
        return transferred_embeddings(weight, self._old.tokens, self._new.tokens, old_special=self._old.special,
                                      new_special=self._new.special,
                                      generator=torch.Generator().manual_seed(self._seed))


def find_vocabulary(conf: BaseConfigs, old: Tokenizer | None, *, n_rows: int) -> Vocabulary | None:
    """
    The vocabulary of a run, if it is another one than that of what it goes on from; also gives the run its tokenizer
    and its `n_tokens`.

    * `conf` are configs of a run, whose values are set, and of which nothing is built
    * `old` is the tokenizer of what the run goes on from, and `n_rows` the number of its embeddings

    Raises `UserError` for a tokenizer that cannot be extended.
    """
    if not conf.vocab_extend and (old is None or conf.tokenizer.to_dict() == old.to_dict()):
        return None
    if conf.freeze:
        raise UserError(f'freeze={conf.freeze} would leave the embeddings of new tokens as they are drawn: leave out '
                        'freeze, or vocab_extend and the other tokenizer')
    if conf.vocab_extend:
        return _extended(conf, old, n_rows)
    vocabulary = OtherVocabulary(old, conf.tokenizer, n_rows=n_rows, seed=conf.seed)
    _set_n_tokens(conf, vocabulary, n_rows)
    return vocabulary


def _extended(conf: BaseConfigs, old: Tokenizer | None, n_rows: int) -> Vocabulary:
    if not isinstance(old, SubwordTokenizer) or conf._saved_tokenizer is None:
        raise UserError(f'vocab_extend={conf.vocab_extend} adds tokens to the BPE or WordPiece of init_from: '
                        + ('leave out `tokenizer`' if isinstance(old, SubwordTokenizer) else 'it has none'))

    def find() -> str:
        return conf._token_cache.tokenizer_json(
            conf.corpus, ['extend', EXTENSION_VERSION, old.to_dict(), conf.vocab_extend], sample=conf.tokenizer_sample,
            train=lambda texts: json.dumps(extend_vocabulary(old.files[FILE], texts, n=conf.vocab_extend)))

    vocabulary = ExtendedVocabulary(Extension(*json.loads(ranks().main_first(find))))
    conf._saved_tokenizer = SubwordTokenizer.from_json(vocabulary.extension.content)
    _set_n_tokens(conf, vocabulary, n_rows)
    return vocabulary


def _set_n_tokens(conf: BaseConfigs, vocabulary: Vocabulary, n_rows: int):
    """As many as there are rows, some of which may be padding."""
    adapted = vocabulary.adapt({'generator.decoder.bias': torch.zeros(n_rows)})
    conf._set_values({'n_tokens': len(adapted['generator.decoder.bias'])})
