"""
# From a text to batches, as configs

The first half of `MLMConfigs`: which text, how it becomes tokens, and how those become batches.
"""
from labml import lab, logger, monit
from labml.configs import option
from labml_helpers.train_valid import TrainValidConfigs
from torch import Tensor

from labml_mlm import text as texts
from labml_mlm.compat import OwnDefaults
from labml_mlm.data import TrainLoader, ValidLoader, split
from labml_mlm.errors import Range, UserError, at_least
from labml_mlm.tokenizer import CharacterTokenizer


class TextConfigs(OwnDefaults, TrainValidConfigs):
    """
    ## Configurations of text, tokens and batches
    """
    # Seed of weights, masks, order of windows and dropout
    seed: int = 1
    # The text to train on, and to validate on its last 10%
    text: str = 'auto'
    # Path of a text in UTF-8, for text=file
    text_path: str = ''
    # Where text=tiny_shakespeare is fetched
    tiny_shakespeare_url: str = texts.TINY_SHAKESPEARE_URL
    # Which text text=auto is
    auto_text: str = 'found'
    # How text becomes tokens
    tokenizer: CharacterTokenizer = 'character'
    # Size of the vocabulary, special tokens included
    n_tokens: int = 'from_tokenizer'
    # Token ids of the training text, `[n]`
    train_tokens: Tensor = 'encoded'
    # Token ids of the validation text
    valid_tokens: Tensor = 'encoded'

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

    _ranges = {'seed': Range(0, 2 ** 32 - 1), 'n_tokens': at_least(1), 'seq_len': at_least(1),
               'batch_size': at_least(1), 'valid_batch_size': at_least(1)}
    _refused = {'auto_text': 'give `text`'}


@option(TextConfigs.auto_text, 'found')
def _auto_text(c: TextConfigs):
    """`file` if `text_path` is given, else `tiny_shakespeare` or, where that cannot be had, `python_topics`."""
    if c.text_path:
        return 'file'
    try:
        _fetched(c)
    except OSError as e:
        logger.log(f"Tiny Shakespeare cannot be had ({e}); training on Python's own help topics instead")
        return 'python_topics'
    return 'tiny_shakespeare'


@option(TextConfigs.text, 'auto')
def _auto(c: TextConfigs):
    if c.auto_text == 'file':
        return _file(c)
    return _fetched(c) if c.auto_text == 'tiny_shakespeare' else _python_topics()


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
    return texts.read_file(c.text_path)


@option(TextConfigs.tokenizer, 'character')
def _character(c: TextConfigs):
    return CharacterTokenizer.from_text(c.text)


@option(TextConfigs.n_tokens, 'from_tokenizer')
def _n_tokens(c: TextConfigs):
    return c.tokenizer.n_tokens


@option([TextConfigs.train_tokens, TextConfigs.valid_tokens], 'encoded')
def _encoded(c: TextConfigs):
    return split(c.tokenizer.encode(c.text))


@option(TextConfigs.train_loader, 'shuffled_windows')
def _train_loader(c: TextConfigs):
    return TrainLoader(c.train_tokens, seq_len=c.seq_len, batch_size=c.batch_size, seed=c.seed)


@option(TextConfigs.valid_loader, 'all_windows')
def _valid_loader(c: TextConfigs):
    return ValidLoader(c.valid_tokens, seq_len=c.seq_len, batch_size=c.valid_batch_size)
