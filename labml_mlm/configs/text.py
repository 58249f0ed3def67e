"""
# Configs of the text

Which text, how its files are read, and which part of it is for validation.
"""
import functools
import tempfile
from pathlib import Path
from typing import Annotated, Any

from labml import lab, logger
from labml.configs import option
from labml.internal.experiment import has_experiment
from labml.logger import Text
from labml_helpers.train_valid import TrainValidConfigs

from labml_mlm.common.errors import UserError, did_you_mean
from labml_mlm.data import sources
from labml_mlm.data.corpus import Corpus
from labml_mlm.data.documents import TextFiles, TextIterable
from labml_mlm.distributed.process_group import ranks
from labml_mlm.items.declarations import DeclaredConfigs, Item, Range
from labml_mlm.items.schema import chosen_value
from labml_mlm.reading.files import expand_path
from labml_mlm.reading.listing import ALL_TEXTS, Listing, as_paths, list_files
from labml_mlm.reading.texts import RECORDS, has_field
from labml_mlm.screen.long_work import long_work, progress
from labml_mlm.tokenization.token_cache import TokenCache

_FOLDERS = 'text_path=, valid_path=, old_path= or replay_path='
_FILES = 'texts of files: text=auto, file, folder and python_sources'


class TextConfigs(DeclaredConfigs, TrainValidConfigs):
    """
    ## Configurations of the text
    """
    seed: Annotated[int, Item('Seed of weights, masks, order of windows and dropout', Range(0, 2 ** 32 - 1))] = 1
    text: Annotated[str, Item('Text to train on; a part of it is for validation', may_change=True)] = 'auto'
    text_path: Annotated[list[str], Item(
        'Files to train on, and folders of such: text in UTF-8, JSON lines, .csv, .tsv, .parquet, .fasta',
        is_path=True, may_change=True, belongs_to='text=auto, file and folder')] = []
    text_glob: Annotated[str, Item('Files of a folder; `**/*` is those whose suffix is that of a text, and `{a,b}` is '
                                   'either one', belongs_to=f'a folder: {_FOLDERS}')] = ALL_TEXTS
    text_field: Annotated[str, Item('Field of a JSON line, or column of a table, that holds the text',
                                    belongs_to='JSON lines, tables and Parquet')] = 'text'
    text_format: Annotated[str, Item('How files are read: `auto` by their suffix; `plain` as they are, but for '
                                     '.jsonl', belongs_to=_FILES)] = 'auto'
    text_errors: Annotated[str, Item('How to handle invalid UTF-8 and files that are not text: `strict` refuses them, '
                                     '`skip` leaves them out, `replace` puts U+FFFD in place of wrong bytes',
                                     belongs_to=_FILES)] = 'strict'
    text_unit: Annotated[str, Item('Unit of a document: `file` (or a row, or a record) or `paragraph`',
                                   belongs_to=_FILES)] = 'file'
    valid_fraction: Annotated[float, Item('Fraction for validation: of the documents, or the end of a single document',
                                          Range(0, 0.99), aliases=('valid_share',),
                                          belongs_to='runs without a valid_path')] = 0.1
    valid_path: Annotated[list[str], Item('Files and folders for validation alone; the whole `text` is for training '
                                          'then', is_path=True, may_change=True)] = []
    default_text: Annotated[str, Item('What `text=auto` means without a `text_path`',
                                      belongs_to='text=auto without a text_path')] = 'tiny_shakespeare'
    tiny_shakespeare_url: Annotated[str, Item('Where text=tiny_shakespeare is downloaded', may_change=True,
                                              belongs_to='text=tiny_shakespeare')] = sources.TINY_SHAKESPEARE_URL
    # Which text `text=auto` is
    auto_text: Annotated[str, Item(refused='set `text`')] = 'found'
    corpus: Annotated[Corpus, Item('Result of a first pass over the text')] = 'read'

    # Why it is not Tiny Shakespeare
    _text_fallback: str | None = None

    @property
    def _text_identity(self) -> dict[str, Any]:
        """Which text it is, for JSON: a resumed run must have the same. None, if nothing has asked for it."""
        if self._get_computed('text') is None:
            return {'source': None, 'characters': None, 'sha256': None, 'valid_sha256': None}
        return {'source': self._get_computed('auto_text'), 'characters': self.corpus.n_characters,
                'sha256': self.corpus.sha256,
                'valid_sha256': self._valid_cache.corpus().sha256 if self._valid_cache else None}

    @property
    def _described(self) -> dict[str, Any]:
        """Which text it is, in place of the text itself."""
        about = None
        if self._get_computed('corpus') is not None:
            text = self._text_identity
            about = f'{self._text_name}, {text["characters"]:,} characters, SHA-256 {text["sha256"][:12]}…'
        return super()._described | {'text': about}

    @property
    def _text_name(self) -> str:
        """The option that `text` is; the type of an object."""
        text = chosen_value(self, 'text')
        is_option = isinstance(text, str) and text in self._Configs__options['text']
        return self._text_identity['source'] or (text if is_option else type(text).__name__)

    @functools.cached_property
    def _token_cache(self) -> TokenCache:
        """The cache of the text: of files in labml's data path, of a text from Python for as long as this lives."""
        documents = self.text if isinstance(self.text, TextFiles) else TextIterable(self.text)
        return self._cache(documents, valid_fraction=None if self.valid_path else self.valid_fraction)

    @functools.cached_property
    def _valid_cache(self) -> TokenCache | None:
        """The cache of `valid_path`, if it is given."""
        return self._cache_of('valid_path')

    def _cache_of(self, item: str) -> TokenCache | None:
        """The cache of files and folders of an item, which are read like the text; `None` if it has none."""
        paths = as_paths(getattr(self, item), item=item)
        return self._cache(_listed_files(self, paths, item), valid_fraction=None) if paths else None

    def _cache(self, documents: TextFiles | TextIterable, *, valid_fraction: float | None) -> TokenCache:
        folder = lab.get_data_path() / 'tokens' if documents.identity else Path(self._scratch.name)
        cache = TokenCache(folder, documents, valid_fraction=valid_fraction, progress=progress)
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
    `file`, or `folder` if there is one, if `text_path` is given, else `default_text`; if that is `tiny_shakespeare` and
    cannot be downloaded, `python_topics`.
    """
    if paths := as_paths(c.text_path, item='text_path'):
        return 'folder' if any(expand_path(path).is_dir() for path in paths) else 'file'
    if c.default_text != 'tiny_shakespeare':
        return c.default_text
    try:
        _download(c)
    except OSError as e:
        c._text_fallback = str(e)
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
    # Read even if it is not needed, as what nothing reads is refused
    text, url = sources.cached_tiny_shakespeare(lab.get_data_path()), c.tiny_shakespeare_url
    if text is None:
        with long_work('Downloading Tiny Shakespeare'):
            text = sources.download_tiny_shakespeare(lab.get_data_path(), url, progress)
    return text


@option(TextConfigs.text, 'python_topics')
def _python_topics():
    return sources.python_topics()


@option(TextConfigs.text, 'python_sources')
def _python_sources(c: TextConfigs):
    files = sources.python_sources()
    return _text_files(c, Listing(files, [str(path) for path in files], []))


@option(TextConfigs.text, 'file')
def _file(c: TextConfigs):
    paths = as_paths(c.text_path, item='text_path')
    if not paths:
        raise UserError('text=file needs a file: text_path=PATH')
    for path in map(expand_path, paths):
        if path.is_dir():
            raise UserError(f'{path} is a folder, not a text file: use text=folder')
    return _listed_files(c, paths, 'text_path')


@option(TextConfigs.text, 'folder')
def _folder(c: TextConfigs):
    paths = as_paths(c.text_path, item='text_path')
    if not paths:
        raise UserError('text=folder needs a folder: text_path=PATH')
    expanded = [expand_path(path) for path in paths]
    if not any(path.is_dir() for path in expanded):
        raise UserError(f'{expanded[0]} is not a folder' if expanded[0].exists() else
                        f'there is no folder {expanded[0]}')
    return _listed_files(c, paths, 'text_path')


def _listed_files(c: TextConfigs, paths: list[str], item: str) -> TextFiles:
    """The files of the paths of an item; says what is left out."""
    _check_reading(c)
    # Without a folder, nothing reads a pattern
    pattern = c.text_glob if any(expand_path(path).is_dir() for path in paths) else ALL_TEXTS
    listing = list_files(paths, pattern, item=item, text_format=c.text_format)
    if has_experiment():
        for note in listing.notes:
            logger.log(note, Text.warning)
    return _text_files(c, listing)


def _text_files(c: TextConfigs, listing: Listing) -> TextFiles:
    _check_reading(c)
    # Without rows, nothing reads a field
    field = {'field': c.text_field} if any(has_field(path, text_format=c.text_format) for path in listing.files) else {}
    return TextFiles(listing.files, names=listing.names, errors=c.text_errors, unit=c.text_unit,
                     text_format=c.text_format, **field)


def _check_reading(c: TextConfigs):
    for name, allowed in (('text_errors', ['strict', 'skip', 'replace']), ('text_unit', ['file', 'paragraph']),
                          ('text_format', [*RECORDS])):
        if (value := getattr(c, name)) not in allowed:
            raise UserError(f'{name}={value}: it must be one of {", ".join(allowed)}.{did_you_mean(value, allowed)}')

@option(TextConfigs.corpus, 'read')
def _corpus(c: TextConfigs):
    def read() -> Corpus:
        if c._valid_cache is not None:
            # The smaller text first, to report its errors early
            c._valid_cache.corpus()
        return c._token_cache.corpus()

    with long_work('Reading the text'):
        return ranks().main_first(read)
