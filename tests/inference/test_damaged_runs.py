"""
Whatever the files of a run say, checksums included, a command that uses its model ends with one line, or uses it.

`tests/runs/test_damaged_files.py` has the commands that need no model.
"""
import json
import os
import shutil
import struct

import pytest
from support.damage import bounded, content, header, metadata, of_configs, rewrite, tensors, tokenizer
from support.project import Project, outcome

NAN, DEEP = float('nan'), b'[' * 100_000
MODEL = {'nothing': None, 'list': [], 'number': 5, 'empty': {}, 'unknown tensor': {'$tensor': 'x'},
         'tensor of a dict': {'$tensor': {}}, 'no items': {'$items': 5}, 'key that is none': {'$items': [[{}, 1]]},
         'numbers for weights': {'src_embed.weight': 5}}
GIVEN = [{'d_model': 'x'}, {'d_model': -1}, {'d_model': 0}, {'d_model': [1]}, {'d_model': None}, {'d_model': True},
         {'d_model': NAN}, {'transformer__n_layers': 0}, {'transformer__n_heads': 0}, {'transformer__n_heads': 'x'},
         {'n_tokens': 10 ** 12}, {'n_tokens': 5}, {'mask_token': 10 ** 6}, {'padding_token': -5},
         {'no_mask_tokens': [10 ** 9]}, {'seq_len': 'x'}, {'seq_len': 0}, {'batch_size': 'x'}, {'masking_prob': 7},
         {'transformer': 5}, {'transformer': 'x'}, {'transformer__unknown': 5}, {'transformer__dropout': NAN},
         {'tokenizer': 5}, {'prompt': 5}, {'seed': 'x'}, {'text_unit': 5}, {'sentence_pairs': 'nsp'}]
COMPUTED = [{'transformer__d_model': 10 ** 12}, {'transformer__n_layers': 10 ** 12}, {'transformer__n_heads': 0},
            {'transformer__n_layers': -1}, {'transformer__d_model': 17}]
CONFIGS = {'nothing': None, 'no tokenizer': {'tokenizer': {}}, 'no characters': {'tokenizer': {'kind': 'character'}},
           'characters are a number': {'tokenizer': {'kind': 'character', 'characters': 5}},
           'other characters': {'tokenizer': {'kind': 'character', 'characters': 'abc'}},
           'unknown tokenizer': {'tokenizer': {'kind': 'x'}}, 'unknown objective': {'objective': 'x'},
           'text of a number': {'text': {'source': 5}},
           'other objective': {'objective': 'tagging', 'labels': {'kind': 'tags', 'names': ['a', 'b']}}}
REST = [{'step': 10 ** 30}, {'valid': {'loss': 10 ** 400}}, {'valid': {'loss': 1., 'accuracy': [1]}}, {'files': {}},
        {'log_bytes': 'x'}, {'log_bytes': -1}, {'progress': {'epoch': 'x'}}, {'progress': {'tokens': -1}},
        {'configs': None}]
WEIGHTS = {'empty': lambda data: b'', 'no header': lambda data: bytes(7), 'header of 0 bytes': lambda data: bytes(8),
           'endless header': lambda data: struct.pack('<Q', 2 ** 63) + b'{}',
           'header beyond the end': lambda data: struct.pack('<Q', 99_000_000) + b'{}', 'cut': lambda data: data[:-10],
           'longer': lambda data: data + bytes(100), 'no tensors': lambda data: tensors({}),
           'list': lambda data: tensors([]), 'deep': lambda data: tensors(DEEP),
           'shape is NaN': header(lambda tensor: tensor.update(shape=NAN)),
           'NaN in a shape': header(lambda tensor: tensor.update(shape=[NAN])),
           '10^12 numbers': header(lambda tensor: tensor.update(shape=[10 ** 12])),
           'negative shape': header(lambda tensor: tensor.update(shape=[-1])),
           'shape that overflows': header(lambda tensor: tensor.update(shape=[2 ** 32] * 3)),
           'other type': header(lambda tensor: tensor.update(dtype='F16')),
           'NaN': lambda data: data[:-4000] + b'\xff' * 4000}
NO_TOKENIZER = {'empty': b'', 'list': b'[]', 'deep': DEEP, 'no model': b'{}', 'bytes': bytes(range(256)), 'NaN': b'NaN'}
TOKENIZER = {name: content('tokenizer.json', lambda _, data=data: data) for name, data in NO_TOKENIZER.items()} | {
    'id of a billion': tokenizer(lambda about: about['model']['vocab'].update(a=10 ** 9)),
    'negative id': tokenizer(lambda about: about['added_tokens'][-1].update(id=-1)),
    'two tokens': tokenizer(lambda about: about['model'].update(vocab={'a': 0}, merges=[])),
    'more tokens': tokenizer(lambda about: about['model']['vocab'].update({f'x{i}': 293 + i for i in range(50)})),
    'wrong expression': tokenizer(lambda about: about.update(pre_tokenizer={
        'type': 'Split', 'pattern': {'Regex': '('}, 'behavior': 'Isolated', 'invert': False})),
    'endless replacement': tokenizer(lambda about: about.update(normalizer={
        'type': 'Replace', 'pattern': {'String': ''}, 'content': 'aa'}))}
DAMAGE = {
    **{f'model: {name}': metadata(lambda found, value=value: found.update(model=value))
       for name, value in MODEL.items()},
    **{f'given: {values}': of_configs('given', **values) for values in GIVEN},
    **{f'computed: {values}': of_configs('computed', **values) for values in COMPUTED},
    **{f'configs: {name}': metadata(lambda found, values=values: found['configs'].update(values or {'given': None}))
       for name, values in CONFIGS.items()},
    **{f'checkpoint: {str(values)[:40]}': metadata(lambda found, values=values: found.update(values))
       for values in REST},
    **{f'weights: {name}': content('model.safetensors', change) for name, change in WEIGHTS.items()},
    **{f'tokenizer: {name}': damage for name, damage in TOKENIZER.items()}}
# A command for each way to load a model
COMMANDS = {'evaluate': ('--text', 'some.txt'), 'embed': ('some.txt', '-o', 'features.npy'), 'score': ('some.txt',),
            'inspect': ('the fox',), 'predict': ('some.txt',), 'export': ('exported',),
            'probe': ('--text', 'rows.jsonl'), 'evaluate of its own text': ()}
SOME = ['model: number', "given: {'d_model': 'x'}", "computed: {'transformer__d_model': 1000000000000}",
        'configs: no characters', "checkpoint: {'files': {}}", 'weights: cut', 'weights: NaN',
        'tokenizer: id of a billion']


@pytest.fixture(scope='module')
def whole(tmp_path_factory, fork_server):
    """A project with a run of subwords, of two checkpoints."""
    project = Project(tmp_path_factory.mktemp('whole'), fork_server)
    (project.path / 'some.txt').write_text('the quick fox\nover the lazy dog\n')
    (project.path / 'rows.jsonl').write_text(''.join(json.dumps({'text': f'the fox {i}', 'label': 'ab'[i % 2]}) + '\n'
                                                     for i in range(80)))
    result = project.train('tokenizer=bpe', 'vocab_size=300', 'epochs=2', 'n_prompts=1', env={'RUN_UUID': 'feed'})
    assert result.returncode == 0, result.stderr
    assert len(list((project.path / 'logs/test/feed/checkpoints').iterdir())) == 2
    return project


@pytest.fixture
def run(whole, monkeypatch):
    """A copy of the run, in the same project."""
    monkeypatch.chdir(whole.path)
    path = whole.path / 'logs/test/beef'
    shutil.copytree(path.with_name('feed'), path)
    yield path
    shutil.rmtree(path)


def assert_one_line(capsys, *arguments):
    with bounded():
        code, out, err = outcome(capsys, *arguments)
    # Which checkpoint and which text are said before
    *before, message = err.splitlines()
    assert (code, out) == (2, ''), err
    assert all(line.startswith(('Using ', 'The text is ')) for line in before), err
    assert message and 'Traceback' not in err and 'Error:' not in err
    return message


@pytest.mark.parametrize('damage', DAMAGE)
def test_no_model_without_one_line(run, capsys, damage):
    """No traceback, no hang, and no more memory than the files have."""
    DAMAGE[damage](run)
    assert_one_line(capsys, 'fill-mask', 'beef', 'the [MASK] fox')


@pytest.mark.parametrize('damage', SOME)
def test_every_command_ends_with_it(run, capsys, damage):
    DAMAGE[damage](run)
    for name, arguments in COMMANDS.items():
        message = assert_one_line(capsys, name.partition(' ')[0], 'beef', *arguments)
        assert 'damaged' in message or 'beef/checkpoints' in message, (name, message)
    assert not os.path.lexists('exported')


@pytest.mark.parametrize('values', [{'d_model': 10 ** 12}, {'seq_len': 10 ** 12}, {'transformer__ffn__d_ff': 10 ** 12}])
def test_what_is_computed_otherwise_asks_for_no_memory(run, capsys, values):
    of_configs('given', **values)(run)
    with bounded():
        assert outcome(capsys, 'fill-mask', 'beef', 'the [MASK] fox')[0] in (0, 2)
        code, _, err = outcome(capsys, 'evaluate', 'beef')
    assert code in (0, 2) and 'Traceback' not in err, err


def put(place, name):
    def damage(path):
        (path / name).unlink()
        place(path / name)
    return damage


PLACES = {'pipe': os.mkfifo, 'endless': lambda path: path.symlink_to('/dev/zero'), 'folder': lambda path: path.mkdir(),
          'link': lambda path: path.symlink_to('/etc/passwd'), 'nothing': lambda path: None}


@pytest.mark.parametrize('name', ['checkpoint.json', 'model.safetensors', 'tokenizer.json'])
@pytest.mark.parametrize('place', PLACES)
def test_checkpoint_before_a_damaged_one_is_used_and_that_is_said(run, capsys, place, name):
    first, last = sorted((run / 'checkpoints').iterdir(), key=lambda path: int(path.name))
    put(PLACES[place], name)(last)
    with bounded():
        code, out, err = outcome(capsys, 'fill-mask', 'beef', 'the [MASK] fox', '--checkpoint', 'last')
    assert code == 0 and f'Using {first}, the last intact one: {last / name}: ' in err


@pytest.mark.parametrize('name', ['../../../../etc/passwd', '/etc/passwd', '..'])
def test_names_outside_of_the_folder_are_not_opened(run, capsys, name):
    first, last = sorted((run / 'checkpoints').iterdir(), key=lambda path: int(path.name))
    rewrite(last, lambda found: found['files'].update({name: {'bytes': 1, 'sha256': ''}}))
    code, out, err = outcome(capsys, 'fill-mask', 'beef', 'the [MASK] fox', '--checkpoint', 'last')
    assert code == 0 and f'Using {first}, the last intact one: {last}/checkpoint.json is not a checkpoint' in err


def of_snapshot(change):
    def damage(run):
        snapshot = json.loads((run / 'configs.json').read_text())
        change(snapshot)
        (run / 'configs.json').write_text(json.dumps(snapshot))
    return damage


def folder_of(name):
    def damage(run):
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()
    return damage


def pipe_of(name):
    def damage(run):
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)
    return damage


RESUMED = {
    'd_model of a text': (of_snapshot(lambda found: found['given'].update(d_model='x')), "they have d_model='x'"),
    'd_model of 10^12': (of_snapshot(lambda found: found['given'].update(d_model=10 ** 12)), 'ask for a model of'),
    'no configs': (pipe_of('configs.json'), 'it has no configs.json that can be read'),
    'log.jsonl is a folder': (folder_of('log.jsonl'), 'log.jsonl: it is no ordinary file'),
    'log.jsonl is a pipe': (pipe_of('log.jsonl'), 'log.jsonl: it is no ordinary file'),
    'run.lock is a folder': (folder_of('run.lock'), 'run.lock: it is no ordinary file'),
    'optimizer of a number': (metadata(lambda found: found.update(optimizer=5)), 'the state in'),
    'no generators': (metadata(lambda found: found.pop('rng')), "does not fit: KeyError: 'rng'"),
    'length of the log': (metadata(lambda found: found.pop('log_bytes')), 'does not say how long the metrics were'),
    'weights': (content('model.safetensors', lambda data: data[:-10]), 'has no tensors that can be read'),
}


@pytest.mark.parametrize('damage', RESUMED)
def test_run_that_cannot_be_resumed_stays_as_it_is(run, whole, damage):
    change, message = RESUMED[damage]
    change(run)
    before = {path: path.read_bytes() for path in run.rglob('*') if path.is_file() and path.name != 'run.lock'}
    result = whole.run('--resume', 'beef', 'epochs=3')
    assert result.returncode == 2 and message in result.stderr.splitlines()[-1], result.stderr
    assert 'Traceback' not in result.stderr
    assert before == {path: path.read_bytes() for path in before}


def test_resumed_run_goes_on_from_the_checkpoint_before_a_damaged_one(run, whole):
    first, last = sorted((run / 'checkpoints').iterdir(), key=lambda path: int(path.name))
    put(os.mkfifo, 'model.safetensors')(last)
    for name in ('text.json', 'run.yaml', 'baselines.json', 'samples.jsonl'):
        (run / name).write_bytes(DEEP)
    result = whole.run('--resume', 'beef')
    assert result.returncode == 0, result.stderr
    assert 'it is no ordinary file. The checkpoint before it is used' in ' '.join(result.stdout.split())
    assert len(list((run / 'checkpoints').iterdir())) == 2
