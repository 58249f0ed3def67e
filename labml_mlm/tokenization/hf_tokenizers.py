"""
# Hugging Face's `tokenizers`

Each kind of tokenizer names its tokens in its own way: `Ġthe` and `▁the` are both a `the` with the space before it,
`##ing` continues a word, and `<s>` may be what BERT calls `[CLS]`. The functions below find out what tokens stand for,
and turn what the library raises into messages.
"""
import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Encoding, Tokenizer, models, processors

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import NO_TEMPLATE, PairTemplate, Template
from labml_mlm.data.chunks import split_chunks
from labml_mlm.tokenization.base import SpecialTokens

# Names of special tokens, without brackets, by role
_ROLES = {'pad': ['pad'], 'unk': ['unk', 'unknown'], 'cls': ['cls', 's', 'bos', 'begin_of_text'],
          'sep': ['sep', '/s', 'eos', 'end_of_text', 'endoftext'], 'mask': ['mask']}
_LONE_SURROGATE = re.compile('[\ud800-\udfff]')
# Ids without a token that a vocabulary may have: each of them has an embedding
_MAX_GAPS = 2 ** 16
# A score of Unigram's: lower than that of any spelling
NEVER = -1e4


def find_special_tokens(tokenizer: Tokenizer) -> SpecialTokens:
    """Finds special tokens by name, and adds `[PAD]` and `[SEP]` if missing. Raises `UserError` without `[MASK]`."""
    names = {token.content: i for i, token in tokenizer.get_added_tokens_decoder().items()}
    found = {}
    for role, known in _ROLES.items():
        ids = [i for name in known for content, i in names.items() if content.strip('[]<>|').lower() == name]
        of_vocabulary = [tokenizer.token_to_id(bracketed.format(known[0])) for bracketed in ('<{}>', '[{}]')] + \
            [tokenizer.token_to_id(f'[{known[0].upper()}]')]
        found[role] = next((i for i in [*ids, *of_vocabulary] if i is not None), None)
    if found['mask'] is None:
        raise UserError('has no [MASK], which a masked language model needs: its special tokens are '
                        + (', '.join(names) or 'none'))
    ids = set(tokenizer.get_vocab(with_added_tokens=True).values())
    if max(ids) >= len(ids) + _MAX_GAPS:
        raise UserError(f'has {len(ids):,} tokens, and ids up to {max(ids):,}: it is damaged')
    for role in 'pad', 'sep':
        if found[role] is None:
            if len(ids) <= max(ids):
                # tokenizers would give it the id of another token
                raise UserError(f'has no [{role.upper()}], and none can be added, because its ids have gaps')
            tokenizer.add_special_tokens([f'[{role.upper()}]'])
            found[role] = tokenizer.token_to_id(f'[{role.upper()}]')
            ids.add(found[role])
    others = [i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special]
    # Ids without a token must never be drawn
    gaps = set(range(max(ids))) - ids
    return SpecialTokens(**found, others=tuple(sorted({*others, *gaps} - set(found.values()))))


def find_template(tokenizer: Tokenizer, special: SpecialTokens) -> Template:
    """
    The special tokens that its post-processor puts around a sequence; BERT's, if it has them, where there is no
    post-processor, or one for offsets alone. Raises `UserError` if a sequence does not come out of it once.
    """
    if _has_no_template(tokenizer):
        return NO_TEMPLATE if special.cls is None else Template((special.cls,), (special.sep,))
    processed = tokenizer.post_processor.process(_one_token())
    if processed.special_tokens_mask.count(0) != 1:
        raise UserError('has a post-processor that leaves the text out, or repeats it')
    at = processed.special_tokens_mask.index(0)
    return Template(tuple(processed.ids[:at]), tuple(processed.ids[at + 1:]))


def find_pair_template(tokenizer: Tokenizer, special: SpecialTokens) -> PairTemplate | None:
    """
    The special tokens that its post-processor puts around and between two sequences, as `find_template` does for one;
    `None` if it is not made for pairs: if the two do not come out of it in order, each once, with a token between them.
    """
    if _has_no_template(tokenizer):
        return None if special.cls is None else PairTemplate((special.cls,), (special.sep,), (special.sep,))
    try:
        processed = tokenizer.post_processor.process(_one_token(), _one_token())
    except BaseException as e:
        if isinstance(e, KeyboardInterrupt):
            raise
        # Not made for pairs
        return None
    places = [i for i, number in enumerate(processed.sequence_ids) if number is not None]
    if [processed.sequence_ids[i] for i in places] != [0, 1]:
        return None
    (first, second), ids, types = places, tuple(processed.ids), processed.type_ids
    segment = types[second]
    if second == first + 1 or any(types[:second]) or any(of_end != segment for of_end in types[second:]):
        return None
    return PairTemplate(ids[:first], ids[first + 1:second], ids[second + 1:], segment)


def _has_no_template(tokenizer: Tokenizer) -> bool:
    """Is there no post-processor, or one for offsets alone?"""
    return tokenizer.post_processor is None or isinstance(tokenizer.post_processor, processors.ByteLevel)


def _one_token() -> Encoding:
    """A sequence of one token, whatever it is: what a post-processor adds to it is special."""
    return Tokenizer(models.WordLevel({'x': 0}, unk_token='x')).encode('x')


def content_of(tokenizer: Tokenizer) -> str:
    """The content of its `tokenizer.json`; that of a tokenizer which is read from it is the same."""
    content = tokenizer.to_str(pretty=True)
    if not isinstance(tokenizer.model, models.Unigram):
        return content
    # `tokenizers` reads scores with more digits inexactly
    about = json.loads(content)
    about['model']['vocab'] = [[piece, round(score, 10)] for piece, score in about['model']['vocab']]
    return json.dumps(about, indent=2, ensure_ascii=False)


def hide_special_pieces(tokenizer: Tokenizer):
    """Unigram prefers pieces with the highest scores, and special tokens have 0: it must not find them in a text."""
    if not isinstance(tokenizer.model, models.Unigram):
        return
    model = json.loads(content_of(tokenizer))['model']
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    vocabulary = [(piece, NEVER if piece in special else score) for piece, score in model['vocab']]
    tokenizer.model = models.Unigram(vocabulary, model['unk_id'], model.get('byte_fallback', False))


def token_texts(tokenizer: Tokenizer) -> list[str | bytes]:
    """The text of each token, with the space before it if the token includes it; bytes for byte-level tokens."""
    about = json.loads(tokenizer.to_str())
    kinds, model = set(_kinds(about)), about['model']
    added = tokenizer.get_added_tokens_decoder()
    byte_of = {c: byte for byte, c in _BYTES.items()}
    prefix, suffix = model.get('continuing_subword_prefix'), model.get('end_of_word_suffix')
    is_metaspace = 'Metaspace' in kinds or '▁' in json.dumps(about['normalizer'], ensure_ascii=False)
    is_split_at_spaces = bool(kinds & {'Whitespace', 'WhitespaceSplit', 'BertPreTokenizer'})

    def text_of(i: int) -> str | bytes:
        token = tokenizer.id_to_token(i)
        if token is None or i in added:
            return token or ''
        if 'ByteLevel' in kinds:
            return bytes(byte_of[c] for c in token) if all(c in byte_of for c in token) else token
        if 'ByteFallback' in kinds and len(token) == 6 and token.startswith('<0x'):
            return bytes.fromhex(token[3:5])
        if is_metaspace:
            return token.replace('▁', ' ')
        if suffix:
            return f'{token.removesuffix(suffix)} ' if token.endswith(suffix) else token
        if prefix and token.startswith(prefix):
            return token.removeprefix(prefix)
        return f' {token}' if is_split_at_spaces else token

    return [text_of(i) for i in range(max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1)]


def is_the_same_in_chunks(tokenizer: Tokenizer, beginning: str) -> bool:
    """
    Does a text have the words of its chunks? Not if the tokenizer puts something in front of a text, or sees more than
    a line at once. `beginning` is that of the text.
    """
    def words(text: str) -> list[str]:
        normal = text if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(text)
        return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]

    if tokenizer.pre_tokenizer is None:
        return False
    some = ['Some words,\n  and', '\n\n more of them.', '\n\nend', ' x']
    chunks = [chunk for chunk, _ in split_chunks([(beginning, True)], len(beginning) // 4 + 1)]
    return all(words(''.join(parts)) == [word for part in parts for word in words(part)] for parts in (some, chunks))


def refuse_surrogates(texts: Iterable[str]) -> Iterator[str]:
    """The same texts. Raises `UserError` for lone surrogates."""
    for text in texts:
        if _LONE_SURROGATE.search(text):
            raise cannot_encode([text], None)
        yield text


@contextlib.contextmanager
def rust_errors() -> Iterator[None]:
    """Raises `UserError` where `tokenizers` panics, as for a regular expression that takes too long."""
    try:
        yield
    except BaseException as e:
        if type(e).__name__ != 'PanicException':
            raise
        raise UserError(f'the tokenizer cannot split this text: {e}') from None


def cannot_encode(texts: list[str], reason: Any) -> UserError:
    """The error for texts that `tokenizers` refuses, for a `reason` of its own."""
    surrogate = next(filter(None, map(_LONE_SURROGATE.search, texts)), None)
    return UserError(f'the text has a lone surrogate: U+{ord(surrogate[0]):04X}' if surrogate else
                     f'the tokenizer cannot encode the text: {reason}')


def _kinds(about: Any) -> Iterator[str]:
    """All component types in a part of a `tokenizer.json`."""
    if isinstance(about, dict):
        if isinstance(about.get('type'), str):
            yield about['type']
        for name, value in about.items():
            if name not in ('vocab', 'merges', 'added_tokens'):
                yield from _kinds(value)
    elif isinstance(about, list):
        for value in about:
            yield from _kinds(value)


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's: printable bytes stand for themselves, the others for the code points from 256 on."""
    printable = [*range(ord('!'), ord('~') + 1), *range(ord('¡'), ord('¬') + 1), *range(ord('®'), ord('ÿ') + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


_BYTES = _byte_alphabet()
