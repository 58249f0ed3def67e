"""
# From a text to batches, as configs

The first third of `MLMConfigs`: which text, how it becomes tokens, and how those become batches.

A text may be a `str`, which is one document, or any iterable of documents; files are read as a stream, and their tokens
are kept in labml's data path.
"""
import functools
from pathlib import Path

import numpy as np
import torch
from labml import lab, logger, monit
from labml.configs import option
from labml.internal.experiment import has_experiment
from labml_helpers.train_valid import TrainValidConfigs
from torch import Tensor

from labml_mlm import corpus as corpora
from labml_mlm import text as texts
from labml_mlm.compat import OwnDefaults
from labml_mlm.corpus import Corpus
from labml_mlm.data import TrainLoader, ValidLoader
from labml_mlm.documents import ALL_TEXTS, Files, Texts, expanded, folder_files
from labml_mlm.errors import Range, UserError, at_least, did_you_mean
from labml_mlm.token_cache import TokenCache
from labml_mlm.tokenizer import CharacterTokenizer


class TextConfigs(OwnDefaults, TrainValidConfigs):
    """
    ## Configurations of text, tokens and batches
    """
    # Seed of weights, masks, order of windows and dropout
    seed: int = 1
    # The text to train on, and to validate on a part of it
    text: str = 'auto'
    # Path of a text in UTF-8, for text=file, or of a folder of texts, for text=folder
    text_path: str = ''
    # Which files of the folder; all that end in .txt, .md or .jsonl, or in one of those and .gz or .zst, unless given
    text_glob: str = ALL_TEXTS
    # The field of a JSON line that has the text
    text_field: str = 'text'
    # What becomes of files that are no text: strict for an error, skip, or replace for U+FFFD in place of wrong bytes
    text_errors: str = 'strict'
    # What a document is: a file (or a JSON line), or a paragraph
    text_unit: str = 'file'
    # Share for validation: of the documents, or of the end of the text if it is one document
    valid_share: float = 0.1
    # Where text=tiny_shakespeare is fetched
    tiny_shakespeare_url: str = texts.TINY_SHAKESPEARE_URL
    # Which text text=auto is
    auto_text: str = 'found'
    # What is known of the text
    corpus: Corpus = 'read'
    # How text becomes tokens
    tokenizer: CharacterTokenizer = 'character'
    # Size of the vocabulary, special tokens included
    n_tokens: int = 'from_tokenizer'
    # Token ids for training and for validation, `[n]` each, of any type of whole numbers
    tokens: tuple = 'encoded'
    # Token ids of the training text, `[n]`
    train_tokens: Tensor = 'of_tokens'
    # Token ids of the validation text
    valid_tokens: Tensor = 'of_tokens'

    # Tokens in a sequence
    seq_len: int = 32
    # Sequences in a training batch
    batch_size: int = 64
    # Sequences in a validation batch
    valid_batch_size: int = 64
    # Training batches of token ids, `[seq_len, batch_size]`
    train_loader: TrainLoader = 'shuffled_windows'
    # Validation batches of token ids
    valid_loader: ValidLoader = 'all_windows'

    _ranges = {'seed': Range(0, 2 ** 32 - 1), 'valid_share': Range(0, 0.99), 'n_tokens': at_least(1),
               'seq_len': at_least(1), 'batch_size': at_least(1), 'valid_batch_size': at_least(1)}
    _refused = {'auto_text': 'give `text`'}

    @functools.cached_property
    def _texts(self) -> Texts:
        """A text from Python as documents."""
        return Texts(self.text)

    @functools.cached_property
    def _token_cache(self) -> TokenCache:
        """What is known of a text of files, in labml's data path."""
        cache = TokenCache(lab.get_data_path() / 'tokens', self.text, valid_share=self.valid_share,
                           progress=monit.progress)
        # What is printed where nothing is trained is for others to read
        cache.is_said = has_experiment()
        return cache


@option(TextConfigs.auto_text, 'found')
def _auto_text(c: TextConfigs):
    """
    `file` or `folder` if `text_path` is given, else `tiny_shakespeare` or, where that cannot be had, `python_topics`.
    """
    if c.text_path:
        return 'folder' if expanded(c.text_path).is_dir() else 'file'
    try:
        _fetched(c)
    except OSError as e:
        logger.log(f"Tiny Shakespeare cannot be had ({e}); training on Python's own help topics instead")
        return 'python_topics'
    return 'tiny_shakespeare'


@option(TextConfigs.text, 'auto')
def _auto(c: TextConfigs):
    return {'file': _file, 'folder': _folder, 'tiny_shakespeare': _fetched,
            'python_topics': lambda _: texts.python_topics()}[c.auto_text](c)


@option(TextConfigs.text, 'tiny_shakespeare')
def _tiny_shakespeare(c: TextConfigs):
    try:
        return _fetched(c)
    except OSError as e:
        raise OSError(f'Tiny Shakespeare cannot be had ({e}). text_path=PATH trains on a text of your own, and '
                      f'tiny_shakespeare_url=URL fetches it from elsewhere') from None


def _fetched(c: TextConfigs) -> str:
    """1.1 million characters of Shakespeare, fetched once and cached in labml's data path."""
    text = texts.cached_tiny_shakespeare(lab.get_data_path())
    if text is None:
        with monit.section('Download Tiny Shakespeare', is_not_in_loop=True):
            text = texts.fetch_tiny_shakespeare(lab.get_data_path(), c.tiny_shakespeare_url, monit.progress)
    return text


@option(TextConfigs.text, 'python_topics')
def _python_topics():
    return texts.python_topics()


@option(TextConfigs.text, 'file')
def _file(c: TextConfigs):
    if not c.text_path:
        raise UserError('text=file needs a file: text_path=PATH')
    path = expanded(c.text_path)
    if path.is_dir():
        raise UserError(f'{path} is a folder, and not one text file: text=folder takes it')
    return _files(c, [path])


@option(TextConfigs.text, 'folder')
def _folder(c: TextConfigs):
    if not c.text_path:
        raise UserError('text=folder needs a folder: text_path=PATH')
    return _files(c, folder_files(c.text_path, c.text_glob))


def _files(c: TextConfigs, paths: list[Path]) -> Files:
    for name, allowed in (('text_errors', ['strict', 'skip', 'replace']), ('text_unit', ['file', 'paragraph'])):
        if (value := getattr(c, name)) not in allowed:
            raise UserError(f'{name}={value}: it can be {", ".join(allowed)}.{did_you_mean(value, allowed)}')
    return Files(paths, field=c.text_field, errors=c.text_errors, unit=c.text_unit)


@option(TextConfigs.corpus, 'read')
def _corpus(c: TextConfigs):
    if isinstance(c.text, Files):
        return c._token_cache.corpus()
    return corpora.read(c._texts, valid_share=c.valid_share)[0]


@option(TextConfigs.tokenizer, 'character')
def _character(c: TextConfigs):
    return CharacterTokenizer.from_characters(c.corpus.characters)


@option(TextConfigs.n_tokens, 'from_tokenizer')
def _n_tokens(c: TextConfigs):
    return c.tokenizer.n_tokens


@option(TextConfigs.tokens, 'encoded')
def _encoded(c: TextConfigs):
    if isinstance(c.text, Files):
        with monit.section('Tokens', is_not_in_loop=True):
            found = c._token_cache.tokens(c.corpus, c.tokenizer)
        return torch.from_numpy(found.train), torch.from_numpy(found.valid)
    _, is_valid = corpora.read(c._texts, valid_share=c.valid_share)
    parts, number = ([], []), 0
    for piece, is_last in c._texts:
        parts[bool(is_valid[number])].append(c.tokenizer.encode(piece))
        number += is_last
    train, valid = (np.concatenate(part) if part else np.zeros(0, np.int32) for part in parts)
    if len(is_valid) == 1:
        cut = int(len(train) * (1 - c.valid_share))
        train, valid = train[:cut], train[cut:]
    return torch.from_numpy(train), torch.from_numpy(valid)


@option(TextConfigs.train_tokens, 'of_tokens')
def _train_tokens(c: TextConfigs):
    return c.tokens[0]


@option(TextConfigs.valid_tokens, 'of_tokens')
def _valid_tokens(c: TextConfigs):
    return c.tokens[1]


@option(TextConfigs.train_loader, 'shuffled_windows')
def _train_loader(c: TextConfigs):
    return TrainLoader(c.train_tokens, seq_len=c.seq_len, batch_size=c.batch_size, seed=c.seed)


@option(TextConfigs.valid_loader, 'all_windows')
def _valid_loader(c: TextConfigs):
    return ValidLoader(c.valid_tokens, seq_len=c.seq_len, batch_size=c.valid_batch_size)
