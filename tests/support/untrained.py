"""Models of ours with random weights, and a tokenizer of each kind."""
import functools

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from labml_mlm import MLMConfigs
from labml_mlm.inference.pretrained import Pretrained, silent
from labml_mlm.tokenization.base import Tokenizer as AnyTokenizer
from labml_mlm.tokenization.character import CharacterTokenizer
from labml_mlm.tokenization.subword import SubwordTokenizer
from support.project import SMALL_VALUES
from support.published import randomize

TEXTS = ['the quick brown fox jumps over the lazy dog and the dogs of the brown foxes\n'] * 20
KINDS = {'character': {}, 'bpe': {'vocab_size': 300}, 'wordpiece': {'vocab_size': 70}, 'unigram': {'vocab_size': 330},
         'grapheme': {'vocab_size': 60}, 'pattern': {'vocab_size': 60, 'token_pattern': r'\w+|\s|.'}}


@functools.cache
def tokenizer_of(kind: str) -> AnyTokenizer:
    from labml_mlm.tokenization.train_tokenizer import TRAINERS

    if kind == 'character':
        return CharacterTokenizer.from_characters(''.join(TEXTS))
    return TRAINERS[kind](TEXTS, **KINDS[kind])


def untrained(tokenizer: AnyTokenizer, **values) -> Pretrained:
    """A model whose every weight is random."""
    conf = MLMConfigs()
    conf.tokenizer = tokenizer
    conf._set_values({**SMALL_VALUES, **values})
    conf.device = torch.device('cpu')
    with silent(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = randomize(conf.model.eval())
        # Far from uniform
        torch.nn.init.normal_(next(model.src_embed.parameters()))
    return Pretrained(model=model, tokenizer=tokenizer, configs=conf, checkpoint=None, about='random')


def roberta_like() -> SubwordTokenizer:
    """One token per word, with `<mask>` and its kin."""
    words = ['<pad>', '<unk>', '<s>', '</s>', '<mask>', 'the', 'quick', 'fox', '<', '>', 'mask']
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token='<unk>'))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(words[:5])
    return SubwordTokenizer(tokenizer)


def log_probabilities(pretrained: Pretrained, ids: torch.Tensor, position: int) -> torch.Tensor:
    """Slow twin: of what may be predicted at a position of `[seq_len]` ids, `[n_tokens]`, with one forward pass."""
    with torch.no_grad():
        logits = pretrained.model.predict(ids[:, None])[position, 0]
    logits[pretrained.configs._unmasked_tokens] = -torch.inf
    logits[len(pretrained.tokenizer.tokens):] = -torch.inf
    return logits.double().log_softmax(-1)
