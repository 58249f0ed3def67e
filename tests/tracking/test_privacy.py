"""No text of the user's leaves the process, but in samples and in what is printed; both can be turned off."""
from pathlib import Path

import pytest
from support.project import SMALL

SENTENCE = 'Seventeen quokkas juggle zinc xylophones'
# In the first characters of a text, in the middle, and in the validation text
TEXT = f'{SENTENCE}.\n' + ('the quick brown fox jumps over the lazy dog\n' * 50 + f'{SENTENCE}.\n') * 4
QUIET = ['n_prompts=0', 'is_output_sent=false']
SCRIPT = f'''from labml.configs import option

from labml_mlm import MLMConfigs, train

TEXT = {TEXT!r}


class Documents(list):
    """Its `repr` has the text."""


class Configs(MLMConfigs):
    notes: str = 'of_text'


@option(Configs.text, 'string')
def _string(c: Configs):
    # A value that only a user's own code reads
    assert c.notes
    return TEXT


@option(Configs.text, 'documents')
def _documents(c: Configs):
    return Documents(f'{{TEXT}} {{i}}' for i in range(10))


@option(Configs.notes, 'of_text')
def _notes():
    return TEXT[:100]


train(Configs(), name='test')
'''


def contents(*paths: Path) -> bytes:
    return b'\n'.join(path.read_bytes() for path in paths if path.exists())


@pytest.mark.parametrize('text', ['string', 'documents', 'file'])
def test_text_is_nowhere_in_what_others_get(app, fake_app, project, sync, text):
    project.script.write_text(SCRIPT)
    project.text.write_text(TEXT)
    source = [f'text_path={project.text}'] if text == 'file' else [f'text={text}']
    project.configure(fake_app.url)
    assert project.run(*source, *SMALL, *QUIET).returncode == 0
    [run] = project.runs
    # To another app, by the command
    project.configure(app.app_url)
    assert sync()[0] == 0
    assert app.ask(f'run/{run.name}')['configs']
    assert fake_app.values()['loss.train']
    sent, stored = str(fake_app.updates), contents(app.store, Path(f'{app.store}-wal'))
    assert run.name.encode() in stored
    for where in (contents(run / 'configs.yaml'), contents(run / 'run.yaml'), sent.encode(), stored):
        assert b'quokka' not in where and b'lazy dog' not in where
        # The set of its characters
        assert b'bcdefg' not in where
    assert not any(update.get(stream) for update in fake_app.updates for stream in ('stdout', 'stderr', 'logger'))


def test_output_is_sent_unless_it_is_turned_off(fake_app, project):
    """A run that prints samples of its text sends them."""
    project.configure(fake_app.url)
    project.text.write_text(TEXT)
    assert project.train('prompt=quick [MASK]rown').returncode == 0
    assert 'Validation loss' in str(fake_app.updates)


def test_error_that_quotes_the_text_is_not_sent(fake_app, project):
    project.configure(fake_app.url)
    project.script.write_text(f'''from labml_mlm import MLMConfigs, train


class Configs(MLMConfigs):
    def sample(self):
        raise KeyError({SENTENCE!r})


train(Configs(), name='test')
''')
    assert project.train(*QUIET).returncode == 1
    assert [update['status']['status'] for update in fake_app.updates if 'status' in update][-1] == 'crashed'
    assert SENTENCE not in str(fake_app.updates)
