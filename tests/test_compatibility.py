"""
Runs, checkpoints, token caches and the store of the app that commit c0efacb wrote still work.

`fixtures/c0efacb` has two runs that were interrupted by SIGTERM, one of them with items that were renamed since;
in `whole` the metrics of the same runs without the interruption; in `tokens` the token cache of both; and in
`store.sqlite` the store of the app with the first of them.
"""
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.app_server import AppServer
from support.project import outcome, values_of

import labml_mlm
from labml_mlm import FillMask
from labml_mlm.tokenization.token_cache import TokenCache

FIXTURES = Path(__file__).parent / 'fixtures/c0efacb'
# Run, its text, tokens at the interruption
CHARACTER = 'c0efacb0c0efacb0c0efacb000000001', 'text.txt', 8448
SUBWORD = 'c0efacb0c0efacb0c0efacb000000002', 'docs.jsonl', 6461


@pytest.fixture
def old(project):
    """A project with these runs, their texts and the token cache."""
    shutil.copytree(FIXTURES / 'logs', project.path / 'logs')
    shutil.copytree(FIXTURES / 'tokens', project.path / 'data/tokens')
    for name in ('text.txt', 'docs.jsonl'):
        shutil.copy(FIXTURES / name, project.path)
    return project


@pytest.mark.parametrize('name, run', [('character', CHARACTER), ('subword', SUBWORD)])
def test_run_resumes_with_the_same_losses(old, name, run):
    uuid, text, tokens = run
    result = old.run('--resume', uuid, f'text_path={old.path / text}')
    assert result.returncode == 0, result.stderr
    assert 'Using the tokens in' in result.stdout
    folder, expected = old.path / 'logs/test' / uuid, values_of(FIXTURES / f'whole/{name}.log.jsonl')
    actual = values_of(folder / 'log.jsonl')
    # There were no others then
    named = {indicator for indicator in actual if not indicator.startswith(('baseline.', 'bits_per_char.'))}
    assert expected.keys() == named and max(expected['loss.train'])[0] > tokens
    # The last step of an epoch, a short batch, had a point of its own then
    ends = {step for step, _ in expected['loss.valid']}
    for indicator, curve in expected.items():
        if indicator != 'tokens_per_second':
            assert [step for step, _ in actual[indicator]] == [step for step, _ in curve]
            values, before = ([value for step, value in pairs if not (indicator.endswith('.train') and step in ends)]
                              for pairs in (actual[indicator], curve))
            # Rounding depends on the processor
            assert len(before) > 1 and values == pytest.approx(before, rel=1e-4)
    filled = [[[sample['filled'] for sample in json.loads(line)['samples']] for line in path.read_text().splitlines()]
              for path in (folder / 'samples.jsonl', FIXTURES / f'whole/{name}.samples.jsonl')]
    assert filled[0] == filled[1]


@pytest.mark.parametrize('run, text', [(CHARACTER, 'the quick br[MASK]wn fox'), (SUBWORD, 'the quick [MASK] fox')])
def test_run_is_loaded_and_listed(old, run, text, capsys, monkeypatch):
    monkeypatch.chdir(old.path)
    uuid, _, tokens = run
    trained = labml_mlm.load(uuid, which='last')
    assert trained.checkpoint.step == tokens
    assert trained.encode(['the quick brown fox']).shape == (1, 16)
    assert len(FillMask(trained)(text).masks[0]) == 5
    code, out, _ = outcome(capsys, 'runs', '--json')
    assert code == 0
    [listed] = [listed for listed in json.loads(out) if listed['uuid'] == uuid]
    assert (listed['step'], listed['status']) == (tokens, 'interrupted')
    code, out, _ = outcome(capsys, 'samples', uuid)
    assert code == 0 and 'masked  ' in out


@pytest.mark.parametrize('uuid', [CHARACTER[0], SUBWORD[0]])
def test_run_is_synced(old, app, uuid, capsys, monkeypatch):
    monkeypatch.chdir(old.path)
    code, out, err = outcome(capsys, 'sync', uuid, '--url', app.app_url)
    assert code == 0, err
    log = values_of(FIXTURES / 'logs/test' / uuid / 'log.jsonl')
    assert f'{sum(map(len, log.values())):,} values sent' in out
    [(steps, _)] = app.points(uuid, 'loss.valid')
    assert list(steps) == [step for step, _ in log['loss.valid']]


def test_store_of_the_app_is_read_and_updated(tmp_path):
    shutil.copy(FIXTURES / 'store.sqlite', tmp_path)
    server = AppServer(tmp_path / 'store.sqlite')
    try:
        uuid = CHARACTER[0]
        [listed] = server.ask('runs/null')['runs']
        assert (listed['run_uuid'], listed['name']) == (uuid, 'test')
        log = values_of(FIXTURES / 'logs/test' / uuid / 'log.jsonl')
        [(steps, values)] = server.points(uuid, 'loss.valid')
        assert (list(steps), list(values)) == ([step for step, _ in log['loss.valid']],
                                               pytest.approx([value for _, value in log['loss.valid']]))
        server.update(uuid, {'track': {'loss.valid': {'step': [9000], 'value': [2.]}}})
        [(steps, _)] = server.points(uuid, 'loss.valid')
        assert list(steps)[-1] == 9000
    finally:
        server.stop()


def test_corpus_files_keep_their_names():
    """They come from path, size and time of the text."""
    documents = SimpleNamespace(identity=[[['/texts/a.txt', 12212, 1795832017000000000]], 'text', 'strict', 'file'])
    cache = TokenCache(Path('tokens'), documents, valid_fraction=0.2)
    assert cache._corpus_path == Path('tokens/056ed60b53af0d29b6a4188ef8f6c07a.json')
