"""
# Is the text that of the run?

The snapshot of a run has a fingerprint of each of its texts. A run that is resumed must have the same ones; what became
of their files since is said if it has not.
"""
from collections.abc import Mapping, Set
from pathlib import Path
from types import MappingProxyType

from labml.configs import BaseConfigs

from labml_mlm.common.errors import UserError
from labml_mlm.data.documents import TextFiles
from labml_mlm.runs.text_files import describe_files, differences

# Items that say what a probe reads
_OF_PROBE = {'probe_path', 'probe_text_field', 'probe_label_field'}


def check_same_text(conf: BaseConfigs, snapshot: dict, files: Mapping[str, dict] = MappingProxyType({})):
    """
    Raises `UserError` if configs that were built have another text or vocabulary than the run.

    * `files` are those of its texts, as `describe_texts` gave them; without them, a message does not name files
    """
    text, saved = identify_text(conf), snapshot['text']
    if text['valid_sha256'] != saved.get('valid_sha256'):
        raise UserError('the validation text is not that of the run' + _since(conf, files, 'valid_path', 'text_path'))
    if text['sha256'] != saved.get('sha256'):
        if not text['sha256'] or not saved.get('sha256'):
            raise UserError('either the run or these configs have no text')
        raise UserError(f'this is not the text of the run: {text["characters"]:,} characters with the SHA-256 '
                        f'{text["sha256"][:12]}… instead of {saved.get("characters") or 0:,} with '
                        f'{saved["sha256"][:12]}…' + _since(conf, files, 'text_path'))
    tokenizer = conf._get_computed('tokenizer')
    if hasattr(tokenizer, 'to_dict') and tokenizer.to_dict() != snapshot['tokenizer']:
        raise UserError('this is not the tokenizer of the run: its vocabulary differs')


def check_same_old_texts(conf: BaseConfigs, snapshot: dict, files: Mapping[str, dict] = MappingProxyType({})):
    """
    Raises `UserError` if configs that were built have another `old_path` or `replay_path` than the run. `files` are
    those of `check_same_text`.
    """
    for (name, sha256), item in zip(identify_old_texts(conf).items(), ('old_path', 'replay_path'), strict=True):
        if sha256 != snapshot['text'].get(name):
            raise UserError(f'the text of {item} is not that of the run' + _since(conf, files, item))


def check_same_probe(conf: BaseConfigs, snapshot: dict, files: Mapping[str, dict] = MappingProxyType({}), *,
                     changed: Set[str] = frozenset()):
    """
    Raises `UserError` if configs that were built have other labelled texts in `probe_path` than the run, unless the
    items that say so are among those that were `changed`. `files` are those of `check_same_text`.
    """
    saved = snapshot['text'].get('probe_sha256')
    # Runs of earlier versions did not note it
    if saved is not None and not changed & _OF_PROBE and identify_probe(conf)['probe_sha256'] != saved:
        raise UserError('the labelled texts of probe_path are not those of the run, and figures before and after could '
                        'not be compared. To go on with these, give the file another name, and that as probe_path'
                        + _since(conf, files, 'probe_path'))


def identify_texts(conf: BaseConfigs) -> dict:
    """Which texts configs that were built have, old ones and those of a probe, too, for JSON."""
    return identify_text(conf) | identify_old_texts(conf) | identify_probe(conf)


def identify_text(conf: BaseConfigs) -> dict:
    """Which text configs that were built have, for JSON."""
    return conf._text_identity


def identify_old_texts(conf: BaseConfigs) -> dict:
    """Which old texts they have, for JSON."""
    return {name: cache.corpus().sha256 if cache else None
            for name, cache in (('old_sha256', conf._old_cache), ('replay_sha256', conf._replay_cache))}


def identify_probe(conf: BaseConfigs) -> dict:
    """Which labelled texts their probe has, for JSON; none of a prober of the user's own that does not tell."""
    return {'probe_sha256': getattr(conf._get_computed('prober'), 'sha256', None)}


def describe_texts(conf: BaseConfigs) -> dict[str, dict]:
    """The files of the texts of configs that were built, by the items that name them, for JSON."""
    documents = {item: cache.documents for item, cache in (
        ('text_path', conf._token_cache if conf._get_computed('text') is not None else None),
        ('valid_path', conf._valid_cache), ('old_path', conf._old_cache), ('replay_path', conf._replay_cache)) if cache}
    described = {item: describe_files(found.names, found.paths) for item, found in documents.items()
                 if isinstance(found, TextFiles)}
    if probe_path := conf._get_computed('probe_path'):
        described['probe_path'] = describe_files([Path(probe_path).name], [Path(probe_path)])
    return described


def _since(conf: BaseConfigs, files: Mapping[str, dict], *items: str) -> str:
    """The end of a message with what became of the files of the first of some items whose files differ."""
    now = describe_texts(conf)
    found = [differences(files[item], now[item]) for item in items if item in files and item in now]
    return ''.join(f'. Since the run began: {what}' for what in [*filter(None, found)][:1])
