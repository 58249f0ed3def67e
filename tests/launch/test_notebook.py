"""Notebooks, executed by a kernel."""
import re

import nbformat
import pytest
from support.notebook import cells, execute, html_of
from support.project import ROOT, SMALL_VALUES, TEXT, values_of

QUICKSTART = ROOT / 'experiments/quickstart.ipynb'
VALUES = {**SMALL_VALUES, 'text_path': 'text.txt'}
# A kernel is interrupted by this signal
INTERRUPTED = '''
import signal

class Interrupted(MLMConfigs):
    def sample(self):
        super().sample()
        if self.progress.epoch == 1:
            signal.raise_signal(signal.SIGINT)
'''


@pytest.fixture(scope='module')
def executed(tmp_path_factory):
    """A notebook with right and wrong calls, and its folder."""
    folder = tmp_path_factory.mktemp('notebook')
    (folder / 'text.txt').write_text(TEXT)
    (folder / '.labml.yaml').write_text('')
    run = f"train(conf, {VALUES}, name='nb', epochs=2)"
    notebook = cells('from labml_mlm import MLMConfigs, metrics, train\nconf = MLMConfigs()',
                     f'path = {run}', f'path = {run}',
                     "train(MLMConfigs(), name='nb', n_layers=3)",
                     f"{INTERRUPTED}\npath = train(Interrupted(), {VALUES}, name='stopped', epochs=4)\n"
                     'print(path.parent.name)\nprint(signal.getsignal(signal.SIGINT))',
                     "path = train(MLMConfigs(), name='stopped', resume='last')",
                     f"print(train(MLMConfigs(), {VALUES}, name='whole', epochs=4).parent.name)",
                     f"train(MLMConfigs(), {VALUES}, name='nb', arguments=['--help', 'epochs'])",
                     "open('own.py', 'w').write(\"from labml_mlm import MLMConfigs, train\\n"
                     f"train(MLMConfigs(), {VALUES}, name='own')\")\n%run own.py epochs=1 d_model=24")
    return execute(notebook, folder, is_failing=True).cells, folder


def test_a_run_is_one_output(executed):
    for cell in executed[0][1:3]:
        [output] = cell.outputs
        [text] = html_of(cell)
        assert output.output_type == 'display_data'
        assert 'epoch <b>2/2</b>' in text and '100%' in text and '<polyline' in text
        assert 'step 62  loss.valid' in text
        assert 'The run is in <span style="font-weight: bold">logs/nb/' in text
        assert len(text) < 30_000


def test_a_cell_is_run_twice(executed):
    folders = sorted(executed[1].glob('logs/nb/*'))
    assert len(folders) == 2
    first, second = (values_of(folder / 'log.jsonl') for folder in folders)
    assert len(first['loss.train']) == 62
    assert all(first[name] == second[name] for name in first if name != 'tokens_per_second')


def test_what_is_wrong_is_one_message(executed):
    [output] = executed[0][3].outputs
    assert output.ename == 'UserError'
    assert output.traceback == ['UserError: `n_layers`: there is no such item. Did you mean `transformer.n_layers`? '
                                '`--help all` lists them all']


def test_interrupted_run_is_saved_and_resumed(executed):
    stopped, resumed = executed[0][4:6]
    [text] = html_of(stopped)
    uuid = re.search(r"To resume: train\(conf, name=&#x27;stopped&#x27;, resume=&#x27;(\w+)&#x27;\)", text)[1]
    # It returns, and the kernel has its own handler again
    [output] = [output.text for output in stopped.outputs if output.output_type == 'stream']
    assert output.startswith('stopped\n') and 'default_int_handler' in output
    assert uuid in html_of(resumed)[0]
    [folder], [whole] = executed[1].glob('logs/stopped/*'), executed[1].glob('logs/whole/*')
    assert values_of(folder / 'log.jsonl')['loss.train'] == values_of(whole / 'log.jsonl')['loss.train']


def test_help_is_printed(executed):
    [output] = executed[0][7].outputs
    assert 'epochs' in output.text


def test_a_script_that_is_run_in_a_notebook_has_its_arguments(executed):
    assert not [output for output in executed[0][8].outputs if output.output_type == 'error']
    [folder] = executed[1].glob('logs/own/*')
    assert '"d_model": 24' in (folder / 'configs.json').read_text()


def test_quickstart_is_committed_executed():
    notebook = nbformat.read(QUICKSTART, as_version=4)
    nbformat.validate(notebook)
    assert QUICKSTART.stat().st_size <= 300_000
    code = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == 'error']
    # The two runs, and the figure that compares them
    assert sum('<polyline' in text for cell in code for text in html_of(cell)) == 2
    assert any('image/png' in output.get('data', {}) for output in outputs)
    # Nothing of the machine that it was executed on
    assert not re.search(r'(?<![\w<.:/])/(home|root|tmp|work|Users|usr)/', QUICKSTART.read_text())


def test_quickstart_runs(tmp_path):
    pytest.importorskip('matplotlib')
    notebook = nbformat.read(QUICKSTART, as_version=4)
    committed = [cell.source for cell in notebook.cells]
    for cell in notebook.cells:
        cell.source = cell.source.replace("'max_steps': 600", "'max_steps': 6").replace("n_layers': 3", "n_layers': 1")
    assert sum(cell.source != source for cell, source in zip(notebook.cells, committed, strict=True)) == 1
    (tmp_path / '.labml.yaml').write_text('')
    execute(notebook, tmp_path)
    assert len(list(tmp_path.glob('logs/quickstart/*'))) == 2
