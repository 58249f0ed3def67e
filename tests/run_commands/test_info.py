import json
import shlex

import pytest
from support.project import TRAIN
from support.trained import LEARN


@pytest.fixture
def facts(command):
    code, out, err = command('info', 'feed', '--json')
    assert (code, err) == (0, '')
    return json.loads(out)


def test_info_has_what_was_given_and_what_came_of_it(facts, trained, run):
    given = {argument.partition('=')[0] for argument in LEARN} | {'text_path'}
    assert set(facts['configs']) == given
    assert facts['configs']['d_model'] == {'value': 32, 'default': 128}
    assert (facts['uuid'], facts['name'], facts['path'], facts['status']) == ('feed', 'test', str(run), 'completed')
    assert facts['text']['path'] == str(trained.text) and facts['text']['characters'] == len(trained.text.read_text())
    characters = set(trained.text.read_text())
    assert facts['tokenizer'] == {'name': 'character', 'kind': 'character', 'n_tokens': len(characters) + 5}
    checkpoints = {int(path.name): path for path in (run / 'checkpoints').iterdir()}
    assert [saved['step'] for saved in facts['checkpoints']] == sorted(checkpoints)
    for saved in facts['checkpoints']:
        assert saved['bytes'] == sum(path.stat().st_size for path in checkpoints[saved['step']].iterdir())
    [best] = [saved for saved in facts['checkpoints'] if saved['is_best']]
    assert (facts['best']['step'], facts['best']['loss.valid']) == (best['step'], best['valid']['loss'])
    assert facts['tokens'] == max(checkpoints) == facts['last']['step']


def test_parameters_are_those_of_the_model(facts, fill_mask):
    assert facts['parameters'] == sum(p.numel() for p in fill_mask.pretrained.model.parameters())


def test_the_command_to_resume_works_as_it_stands(facts, trained):
    python, script, *arguments = shlex.split(facts['resume'])
    assert (python, arguments) == ('python', ['--resume', 'feed', 'epochs=17'])
    assert (trained.path / script).read_text() == TRAIN


def test_info_for_people(command, facts, run):
    code, out, err = command('info', 'test')
    assert (code, err) == (0, '')
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in out.splitlines() if ' ' in line}
    assert lines['run'] == 'feed, of test' and lines['folder'].startswith(str(run))
    assert (lines['comment'], lines['tags']) == (facts['comment'], ', '.join(facts['tags']))
    assert 'seq_len=' in lines['comment'] and 'cpu' in facts['tags']
    assert lines['d_model'].split() == ['32', '128']
    assert lines['model'] == f'{facts["parameters"]:,} parameters'
    assert f'to resume  {facts["resume"]}' in out
    unigram = facts['baselines']['unigram']
    assert list(facts['baselines']) == ['unigram', 'bigram', 'neighbours']
    assert lines['guesses'].startswith(f'unigram {unigram["loss"]:.4f} (accuracy {unigram["accuracy"]:.4f}), bigram ')
    assert f'bits_per_char.valid {facts["best"]["bits_per_char.valid"]:.4f}' in lines['best']
    assert f'{facts["best"]["step"]:,}' in out and 'the best' in out


def test_runs_that_info_cannot_tell_of(assert_refused, trained):
    assert_refused('info', 'fead', message='Did you mean feed?')
    path = trained.path / 'logs/other/dada'
    path.mkdir(parents=True)
    (path / 'run.pid').write_text('1')
    try:
        assert_refused('info', 'dada', message='the run dada has no configs.json of labml_mlm that can be read')
        assert_refused('diff', 'feed', 'dada', message='the run dada has no configs.json')
    finally:
        (path / 'run.pid').unlink()
        path.rmdir()
        path.parent.rmdir()


def test_diff_of_a_run_and_itself(command, assert_refused):
    assert command('diff', 'feed', 'last') == (0, 'Nothing differs\n', '')
    assert_refused('diff', 'feed', message='required: RUN')
