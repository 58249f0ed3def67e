"""
# The tokenizer of a folder

Recent folders of `save_pretrained` have a `tokenizer.json`. Older ones have the vocabulary alone, `vocab.txt` for
WordPiece or `vocab.json` and `merges.txt` for byte-level BPE, and what goes with it is that of BERT and of RoBERTa.
"""
import contextlib
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import read_json, read_ordinary
from labml_mlm.tokenization.patterns import matches_of
from labml_mlm.tokenization.subword import FILE, SubwordTokenizer

_WORD_PIECES, _BPE, _MERGES, _ADDED = 'vocab.txt', 'vocab.json', 'merges.txt', 'added_tokens.json'
# Bytes of a vocabulary, and settings that are true or false
_MAX_BYTES = 2 ** 28
_SWITCHES = 'tokenize_chinese_chars', 'strip_accents', 'do_lower_case', 'add_prefix_space'
# Files that are no tokenizer without the others
PARTS = _WORD_PIECES, _BPE, _MERGES, _ADDED, 'special_tokens_map.json', 'tokenizer_config.json'
# Classes of Hugging Face's that read nothing but these files; those for Japanese, for example, have more
_CLASSES = {_WORD_PIECES: ['BertTokenizer', 'BertTokenizerFast', 'PreTrainedTokenizerFast', 'TokenizersBackend'],
            _BPE: ['RobertaTokenizer', 'RobertaTokenizerFast', 'GPT2Tokenizer', 'GPT2TokenizerFast',
                   'PreTrainedTokenizerFast', 'TokenizersBackend']}
_BERT = {'unk_token': '[UNK]', 'sep_token': '[SEP]', 'pad_token': '[PAD]', 'cls_token': '[CLS]', 'mask_token': '[MASK]'}
# Atoms, bonds and arrows of reaction SMILES (Schwaller et al. 2021, methods)
_REACTION = r'\[[^\]]*\]|Br|Cl|>>|%\([0-9]{3}\)|%[0-9]{2}|.'
_ROBERTA = {'cls_token': '<s>', 'pad_token': '<pad>', 'sep_token': '</s>', 'unk_token': '<unk>', 'mask_token': '<mask>'}


def folder_tokenizer(folder: Path) -> SubwordTokenizer | None:
    """
    The tokenizer of a folder, or `None` if there is none. Raises `UserError` for one that cannot be read, or is of a
    kind that needs more than its vocabulary.
    """
    if (folder / FILE).exists():
        return SubwordTokenizer.from_file(folder / FILE)
    if (folder / _WORD_PIECES).exists():
        built = _of_word_pieces(folder)
    elif (folder / _BPE).exists() and (folder / _MERGES).exists():
        built = _of_byte_pairs(folder)
    else:
        if others := [path.name for path in folder.glob('*.model')]:
            raise UserError(f'{folder} has its tokenizer in {", ".join(others)} alone: save it once more with '
                            f'transformers, which writes a {FILE}')
        return None
    if (folder / _ADDED).exists():
        _add_tokens(built, folder / _ADDED)
    try:
        return SubwordTokenizer(built)
    except UserError as e:
        raise UserError(f'the tokenizer in {folder} {e}') from None


def _of_word_pieces(folder: Path) -> Tokenizer:
    lines = _read(folder / _WORD_PIECES).split('\n')
    vocabulary = {line.rstrip('\r'): i for i, line in enumerate(lines[:-1] if not lines[-1] else lines)}
    about = _settings(folder, _BERT, _WORD_PIECES)
    _check_special(folder / _WORD_PIECES, about, _BERT, vocabulary)
    names = [about[role] for role in _BERT]
    if any(piece.startswith('##') for piece in vocabulary):
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=about['unk_token']))
        tokenizer.normalizer = normalizers.BertNormalizer(
            handle_chinese_chars=about.get('tokenize_chinese_chars', True), strip_accents=about.get('strip_accents'),
            lowercase=about.get('do_lower_case', True))
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    else:
        tokenizer = _of_whole_tokens(folder, vocabulary, names, about['unk_token'])
    tokenizer.add_special_tokens(names)
    cls, sep = ((about[role], vocabulary[about[role]]) for role in ('cls_token', 'sep_token'))
    tokenizer.post_processor = processors.BertProcessing(sep, cls)
    return tokenizer


def _of_whole_tokens(folder: Path, vocabulary: dict[str, int], special: list[str], unk_token: str) -> Tokenizer:
    """Without pieces of words, only a pattern tells where tokens end: that of SMILES, if all of them are such."""
    splits = pre_tokenizers.Sequence(matches_of(_REACTION))
    others = [token for token in vocabulary if token not in special and not token.startswith('[unused')]
    whole = sum(len(splits.pre_tokenize_str(token)) == 1 for token in others)
    if not others or whole < len(others):
        raise UserError(f'{folder / _WORD_PIECES} has no pieces of words (##…), and {len(others) - whole:,} of its '
                        'tokens are no SMILES: give tokenizer=file and tokenizer_path=PATH')
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unk_token))
    tokenizer.pre_tokenizer, tokenizer.decoder = splits, decoders.Fuse()
    return tokenizer


def _of_byte_pairs(folder: Path) -> Tokenizer:
    about = _settings(folder, _ROBERTA, _BPE)
    try:
        vocabulary = read_json(folder / _BPE)
        _read(folder / _MERGES)
        model = models.BPE.from_file(str(folder / _BPE), str(folder / _MERGES))
    except UserError:
        raise
    except Exception as e:  # tokenizers raises nothing more special
        raise UserError(f'cannot read {_BPE} and {_MERGES} in {folder}: {" ".join(str(e).split())}') from None
    _check_special(folder / _BPE, about, _ROBERTA, vocabulary)
    tokenizer, is_spaced = Tokenizer(model), about.get('add_prefix_space', False)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=is_spaced), \
        decoders.ByteLevel()
    tokenizer.add_special_tokens([about[role] for role in _ROBERTA])
    cls, sep = ((about[role], vocabulary[about[role]]) for role in ('cls_token', 'sep_token'))
    tokenizer.post_processor = processors.RobertaProcessing(sep, cls, add_prefix_space=is_spaced)
    return tokenizer


def _read(path: Path) -> str:
    """A text. Raises `UserError` if it cannot be read."""
    try:
        return read_ordinary(path, max_bytes=_MAX_BYTES, is_link_followed=True).decode()
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f'cannot read {path}: {getattr(e, "strerror", None) or "it is not UTF-8"}') from None


def _add_tokens(tokenizer: Tokenizer, path: Path):
    """Adds those that stand beside the vocabulary."""
    for token, i in sorted(read_json(path).items(), key=lambda token_and_id: str(token_and_id[1]).zfill(9)):
        tokenizer.add_tokens([token])
        if tokenizer.token_to_id(token) != i:
            raise UserError(f'{path} has {token} with the id {i}, which does not follow the vocabulary')


def _settings(folder: Path, roles: dict[str, str], file: str) -> dict[str, Any]:
    """What the folder says of its tokenizer, whose vocabulary is in `file`; special tokens as strings."""
    about: dict[str, Any] = dict(roles)
    for name in ('special_tokens_map.json', 'tokenizer_config.json'):
        if (folder / name).exists():
            about |= read_json(folder / name)
    for name in _SWITCHES:
        if not isinstance(about.get(name), bool | None):
            raise UserError(f'{folder} has a tokenizer with {name}={about[name]!r:.60}: it must be true or false')
    if about.get('tokenizer_class', _CLASSES[file][0]) not in _CLASSES[file]:
        raise UserError(f'{folder} has a tokenizer of the class {about["tokenizer_class"]}, which needs more than '
                        f'{file}: save it once more with transformers, which may write a {FILE}')
    for role in roles:
        with contextlib.suppress(TypeError, KeyError):
            # An added token with its properties
            about[role] = about[role] if isinstance(about[role], str) else about[role]['content']
        if not isinstance(about[role], str):
            raise UserError(f'{folder} has a tokenizer with {role}={about[role]!r:.60}: it must be a token')
    return about


def _check_special(path: Path, about: dict[str, Any], roles: dict[str, str], vocabulary: dict[str, int]):
    missing = [str(about[role]) for role in roles if about[role] not in vocabulary]
    if missing:
        raise UserError(f'{path} has no {", ".join(missing)}, of the special tokens')
