"""The name of the text of a run."""
import os
from collections.abc import Mapping, Sequence
from typing import Any

# Built-in texts, by option of `text`
BUILT_IN = {'tiny_shakespeare': 'Tiny Shakespeare', 'python_topics': "Python's help topics",
            'python_sources': "Python's sources"}


def text_name(snapshot: Mapping[str, Any]) -> str | None:
    """The text of a run, by its snapshot, in a few words; `None` if it has a loader of its own."""
    values = {**snapshot['defaults'], **snapshot['given']}
    text, about = values.get('text'), snapshot['text']
    if text == 'auto':
        text = about.get('source')
    if isinstance(text, str) and text in BUILT_IN:
        return BUILT_IN[text]
    if paths := values.get('text_path'):
        return names_of(paths)
    if about.get('characters') is None:
        return None
    return f'text={text}' if isinstance(text, str) else 'a text of its own'


def valid_text_name(snapshot: Mapping[str, Any]) -> str | None:
    """The text that a run is validated on, in a few words."""
    if paths := {**snapshot['defaults'], **snapshot['given']}.get('valid_path'):
        return names_of(paths)
    name = text_name(snapshot)
    return name and f'the part of {name} for validation'


def names_of(paths: str | Sequence[str]) -> str:
    """Files or folders, in a few words."""
    first, *more = [paths] if isinstance(paths, str) else paths
    name = os.path.basename(os.path.normpath(first))
    return f'{name} and {len(more)} more' if more else name
