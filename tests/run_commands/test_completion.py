import subprocess

import pytest

COMPLETE = '''
source ./completion.bash
words=("$@"); COMP_WORDS=("${words[@]}"); COMP_CWORD=$((${#words[@]} - 1)); COMPREPLY=()
_shtab_labml_mlm "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
'''


@pytest.fixture
def complete(command, tmp_path):
    """What bash completes a command to, in a folder of a project."""
    code, script, err = command('completion', 'bash')
    assert (code, err) == (0, '')
    (tmp_path / 'completion.bash').write_text(script)
    (tmp_path / 'complete.sh').write_text(COMPLETE)
    (tmp_path / '.labml.yaml').touch()
    (tmp_path / 'logs/test/feed').mkdir(parents=True)

    def complete(*words):
        result = subprocess.run(['bash', 'complete.sh', 'labml-mlm', *words], cwd=tmp_path, capture_output=True,
                                text=True)
        assert result.stderr == ''
        return set(result.stdout.split())
    return complete


def test_commands_options_and_runs_are_completed(complete):
    assert complete('in') == {'info', 'inspect'}
    assert complete('info', '--j') == {'--json'}
    assert complete('completion', '') == {'bash', 'zsh'}
    assert {'last', 'test', 'feed'} <= complete('info', '')
    assert complete('diff', 'last', 'fe') == {'feed'}
    assert 'complete.sh' in complete('evaluate', 'last', '--import', 'comp')


def test_zsh_has_the_same_commands(command):
    code, out, _ = command('completion', 'zsh')
    assert code == 0 and out.startswith('#compdef labml-mlm')
    assert '_labml_mlm_complete_runs' in out and "export-metrics:'" in out


@pytest.mark.parametrize('arguments, message', [([], 'required: SHELL'), (['fish'], "invalid choice: 'fish'")])
def test_other_shells_are_refused(assert_refused, arguments, message):
    assert_refused('completion', *arguments, message=message)
