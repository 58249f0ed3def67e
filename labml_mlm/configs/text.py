"""
# Which text, as configs

The first part of `MLMConfigs`; the others are tokens and batches, masks, and the run. A text may be a `str`, which is
one document, or any iterable of documents; files are read as a stream, and what is found out about them is kept in
labml's data path.
"""

import functools
import tempfile
from pathlib import Path

from labml import lab, logger, monit
from labml.configs import option
from labml.internal.experiment import has_experiment
from labml_helpers.train_valid import TrainValidConfigs

from labml_mlm.common.errors import Range, UserError, did_you_mean
from labml_mlm.common.labml_compat import OwnDefaults
from labml_mlm.data import sources as texts
from labml_mlm.data.corpus import Corpus
from labml_mlm.data.documents import Files, Texts
from labml_mlm.data.files import ALL_TEXTS, expanded, folder_files
from labml_mlm.distributed.process_group import ranks
from labml_mlm.tokenization.token_cache import TokenCache


class TextConfigs(OwnDefaults, TrainValidConfigs):
    """
    ## Configurations of the text
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
    # A text for validation alone, a file or a folder; the text then is for training alone
    valid_path: str = ''
    # What text=auto is where no text_path is given
    default_text: str = 'tiny_shakespeare'
    # Where text=tiny_shakespeare is fetched
    tiny_shakespeare_url: str = texts.TINY_SHAKESPEARE_URL
    # Which text text=auto is
    auto_text: str = 'found'
    # What is known of the text
    corpus: Corpus = 'read'

    _ranges = {'seed': Range(0, 2 ** 32 - 1), 'valid_share': Range(0, 0.99)}
    _refused = {'auto_text': 'give `text`'}

    @functools.cached_property
    def _token_cache(self) -> TokenCache:
        """What is known of the text; of files in labml's data path, of a text from Python for as long as this lives."""
        documents = self.text if isinstance(self.text, Files) else Texts(self.text)
        return self._cache_of(documents, valid_share=None if self.valid_path else self.valid_share)

    @functools.cached_property
    def _valid_cache(self) -> TokenCache | None:
        """The same of the text for validation, if that is one of its own."""
        if not self.valid_path:
            return None
        path = expanded(self.valid_path)
        paths = folder_files(path, self.text_glob) if path.is_dir() else [path]
        return self._cache_of(_files(self, paths), valid_share=None)

    def _cache_of(self, documents: Files | Texts, *, valid_share: float | None) -> TokenCache:
        folder = lab.get_data_path() / 'tokens' if documents.identity else Path(self._scratch.name)
        cache = TokenCache(folder, documents, valid_share=valid_share, progress=monit.progress)
        # What is printed where nothing is trained is for others to read
        cache.is_said = has_experiment()
        return cache

    @functools.cached_property
    def _scratch(self) -> tempfile.TemporaryDirectory:
        """For the tokens of a text from Python; it is removed with this."""
        return tempfile.TemporaryDirectory(prefix='labml_mlm-')


@option(TextConfigs.auto_text, 'found')
def _auto_text(c: TextConfigs):
    """
    `file` or `folder` if `text_path` is given, else `default_text`; if that is `tiny_shakespeare` and cannot be had,
    `python_topics`.
    """
    if c.text_path:
        return 'folder' if expanded(c.text_path).is_dir() else 'file'
    if c.default_text != 'tiny_shakespeare':
        return c.default_text
    try:
        _fetched(c)
    except OSError as e:
        logger.log(f"Tiny Shakespeare cannot be had ({e}); training on Python's own help topics instead")
        return 'python_topics'
    return 'tiny_shakespeare'


@option(TextConfigs.text, 'auto')
def _auto(c: TextConfigs):
    options = {'file': _file, 'folder': _folder, 'tiny_shakespeare': _fetched, 'python_sources': _python_sources,
               'python_topics': lambda _: texts.python_topics()}
    if c.auto_text not in options:
        raise UserError(f'default_text={c.auto_text}: it can be tiny_shakespeare, python_topics or python_sources.'
                        f'{did_you_mean(c.auto_text, options)}')
    return options[c.auto_text](c)


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


@option(TextConfigs.text, 'python_sources')
def _python_sources(c: TextConfigs):
    return _files(c, texts.python_sources())


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
    def read() -> Corpus:
        if c._valid_cache is not None:
            # The smaller one first, so that what is wrong with it is found soon
            c._valid_cache.corpus()
        return c._token_cache.corpus()

    return ranks().main_first(read)

