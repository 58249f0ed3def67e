"""
# Configs of the text

Which text, how its files are read, and which part of it is for validation.
"""
import functools
import tempfile
from pathlib import Path
from typing import Annotated

from labml import lab, logger, monit
from labml.configs import option
from labml.internal.experiment import has_experiment
from labml_helpers.train_valid import TrainValidConfigs

from labml_mlm.common.declarations import DeclaredConfigs, Item, Range
from labml_mlm.common.errors import UserError, did_you_mean
from labml_mlm.data import sources
from labml_mlm.data.corpus import Corpus
from labml_mlm.data.documents import TextFiles, TextIterable
from labml_mlm.data.sources import ALL_TEXTS, expand_path, list_text_files
from labml_mlm.distributed.process_group import ranks
from labml_mlm.tokenization.token_cache import TokenCache


class TextConfigs(DeclaredConfigs, TrainValidConfigs):
    """
    ## Configurations of the text
    """
    seed: Annotated[int, Item('Seed of weights, masks, order of windows and dropout', Range(0, 2 ** 32 - 1))] = 1
    text: Annotated[str, Item('Text to train on; a part of it is for validation', may_change=True)] = 'auto'
    text_path: Annotated[str, Item('Path of a UTF-8 text file, for text=file, or of a folder of texts, for text=folder',
                                   may_change=True)] = ''
    text_glob: Annotated[str, Item('Files of the folder; `**/*` is those that end in .txt, .md or .jsonl, or in one of '
                                   'these and .gz or .zst')] = ALL_TEXTS
    text_field: Annotated[str, Item('Field of a JSON line that holds the text')] = 'text'
    text_errors: Annotated[str, Item('How to handle invalid UTF-8 and files that are not text: `strict` refuses them, '
                                     '`skip` leaves them out, `replace` puts U+FFFD in place of wrong bytes')] \
        = 'strict'
    text_unit: Annotated[str, Item('Unit of a document: `file` (or JSON line) or `paragraph`')] = 'file'
    valid_fraction: Annotated[float, Item('Fraction for validation: of the documents, or the end of a single document',
                                          Range(0, 0.99), aliases=('valid_share',))] = 0.1
    valid_path: Annotated[str, Item('File or folder for validation alone; the whole `text` is for training then',
                                    may_change=True)] = ''
    default_text: Annotated[str, Item('What `text=auto` means without a `text_path`')] = 'tiny_shakespeare'
    tiny_shakespeare_url: Annotated[str, Item('Where text=tiny_shakespeare is downloaded',
                                              may_change=True)] = sources.TINY_SHAKESPEARE_URL
    # Which text `text=auto` is
    auto_text: Annotated[str, Item(refused='set `text`')] = 'found'
    corpus: Annotated[Corpus, Item('Result of a first pass over the text')] = 'read'

    @functools.cached_property
    def _token_cache(self) -> TokenCache:
        """The cache of the text: of files in labml's data path, of a text from Python for as long as this lives."""
        documents = self.text if isinstance(self.text, TextFiles) else TextIterable(self.text)
        return self._cache(documents, valid_fraction=None if self.valid_path else self.valid_fraction)

    @functools.cached_property
    def _valid_cache(self) -> TokenCache | None:
        """The cache of `valid_path`, if it is given."""
        return self._cache_of(self.valid_path) if self.valid_path else None

    def _cache_of(self, name: str) -> TokenCache:
        """The cache of a file or folder of its own, which is read like the text."""
        path = expand_path(name)
        paths = list_text_files(path, self.text_glob) if path.is_dir() else [path]
        return self._cache(_text_files(self, paths), valid_fraction=None)

    def _cache(self, documents: TextFiles | TextIterable, *, valid_fraction: float | None) -> TokenCache:
        folder = lab.get_data_path() / 'tokens' if documents.identity else Path(self._scratch.name)
        cache = TokenCache(folder, documents, valid_fraction=valid_fraction, progress=monit.progress)
        # Where nothing is trained, the output is for others to read
        cache.is_verbose = has_experiment()
        return cache

    @functools.cached_property
    def _scratch(self) -> tempfile.TemporaryDirectory:
        """For the tokens of a text from Python; removed with this object."""
        return tempfile.TemporaryDirectory(prefix='labml_mlm-')


@option(TextConfigs.auto_text, 'found')
def _auto_text(c: TextConfigs):
    """
    `file` or `folder` if `text_path` is given, else `default_text`; if that is `tiny_shakespeare` and cannot be
    downloaded, `python_topics`.
    """
    if c.text_path:
        return 'folder' if expand_path(c.text_path).is_dir() else 'file'
    if c.default_text != 'tiny_shakespeare':
        return c.default_text
    try:
        _download(c)
    except OSError as e:
        logger.log(f"Cannot download Tiny Shakespeare ({e}); training on Python's own help topics instead")
        return 'python_topics'
    return 'tiny_shakespeare'


@option(TextConfigs.text, 'auto')
def _auto(c: TextConfigs):
    options = {'file': _file, 'folder': _folder, 'tiny_shakespeare': _download, 'python_sources': _python_sources,
               'python_topics': lambda _: sources.python_topics()}
    if c.auto_text not in options:
        raise UserError(f'default_text={c.auto_text}: it must be tiny_shakespeare, python_topics or python_sources.'
                        f'{did_you_mean(c.auto_text, options)}')
    return options[c.auto_text](c)


@option(TextConfigs.text, 'tiny_shakespeare')
def _tiny_shakespeare(c: TextConfigs):
    try:
        return _download(c)
    except OSError as e:
        raise OSError(f'cannot download Tiny Shakespeare ({e}). Use a text of your own by text_path=PATH, or another '
                      f'address by tiny_shakespeare_url=URL') from None


def _download(c: TextConfigs) -> str:
    """1.1 million characters of Shakespeare, downloaded once and cached in labml's data path."""
    text = sources.cached_tiny_shakespeare(lab.get_data_path())
    if text is None:
        with monit.section('Download Tiny Shakespeare', is_not_in_loop=True):
            text = sources.download_tiny_shakespeare(lab.get_data_path(), c.tiny_shakespeare_url, monit.progress)
    return text


@option(TextConfigs.text, 'python_topics')
def _python_topics():
    return sources.python_topics()


@option(TextConfigs.text, 'python_sources')
def _python_sources(c: TextConfigs):
    return _text_files(c, sources.python_sources())


@option(TextConfigs.text, 'file')
def _file(c: TextConfigs):
    if not c.text_path:
        raise UserError('text=file needs a file: text_path=PATH')
    path = expand_path(c.text_path)
    if path.is_dir():
        raise UserError(f'{path} is a folder, not a text file: use text=folder')
    return _text_files(c, [path])


@option(TextConfigs.text, 'folder')
def _folder(c: TextConfigs):
    if not c.text_path:
        raise UserError('text=folder needs a folder: text_path=PATH')
    return _text_files(c, list_text_files(c.text_path, c.text_glob))


def _text_files(c: TextConfigs, paths: list[Path]) -> TextFiles:
    for name, allowed in (('text_errors', ['strict', 'skip', 'replace']), ('text_unit', ['file', 'paragraph'])):
        if (value := getattr(c, name)) not in allowed:
            raise UserError(f'{name}={value}: it must be one of {", ".join(allowed)}.{did_you_mean(value, allowed)}')
    return TextFiles(paths, field=c.text_field, errors=c.text_errors, unit=c.text_unit)


@option(TextConfigs.corpus, 'read')
def _corpus(c: TextConfigs):
    def read() -> Corpus:
        if c._valid_cache is not None:
            # The smaller text first, to report its errors early
            c._valid_cache.corpus()
        return c._token_cache.corpus()

    return ranks().main_first(read)
