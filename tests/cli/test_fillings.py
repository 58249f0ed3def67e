"""How texts that were filled in are shown."""
import pytest

from labml_mlm.cli import fillings
from labml_mlm.inference.candidates import Candidate, Ranked
from labml_mlm.inference.fill_mask import Filled, Prediction
from labml_mlm.inference.joint import Filling, TogetherFilled


def shown(capsys, print_, answer):
    print_(answer)
    return capsys.readouterr().out


def filled(*rows, text='[MASK]'):
    return Filled(text, 'filled', [[Prediction(token, 0.25) for token in row] for row in rows])


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of some columns."""
    def terminal(columns):
        monkeypatch.setattr(fillings, '_columns', lambda: columns)
    return terminal


def test_columns_are_aligned(capsys):
    rows = ['a', ' long', 'b'], ['漢字', 'x', 'é'], ['e\u0301', ' ', 'c']
    assert shown(capsys, fillings.print_predictions, filled(*rows)) == (
        'filled\n'
        '  1  a    0.250  ␣long 0.250  b 0.250\n'
        '  2  漢字 0.250  x     0.250  é 0.250\n'
        '  3  e\u0301    0.250  ␣     0.250  c 0.250\n')


def test_rows_are_numbered_where_there_are_several(capsys):
    assert shown(capsys, fillings.print_predictions, filled(['a'])) == 'filled\n    a 0.250\n'
    lines = shown(capsys, fillings.print_predictions, filled(*['a'] * 10)).splitlines()
    assert lines[1:] == [f'  {i:>2}  a 0.250' for i in range(1, 11)]


@pytest.mark.parametrize('text, token, seen', [
    ('[MASK]', ' the', '␣the'), ('a ␣ [MASK]', ' the', '⍽the'), ('a', ' ␣', '⍽␣'), ('a', '\n', r'\n'),
    ('a', '\\n', r'\\n'), ('a', '\x00', r'\x00'), ('a', "'", "'"), ('a', '"', '"'), ('a', '\u0301', '\u25cc\u0301')])
def test_spaces_and_what_is_not_seen_are_shown(capsys, text, token, seen):
    assert shown(capsys, fillings.print_predictions, filled([token], text=text)) == f'filled\n    {seen} 0.250\n'


@pytest.mark.parametrize('columns', [40, 80, 130])
def test_rows_are_no_wider_than_the_terminal(capsys, terminal, columns):
    terminal(columns)
    tokens = [f' w{"o" * (i % 7)}' for i in range(30)]
    lines = shown(capsys, fillings.print_predictions, filled(tokens, tokens)).splitlines()
    assert all(columns - 20 < len(line) <= columns for line in lines[1:-1] if line != lines[len(lines) // 2])
    assert ' '.join(lines).split()[1:] == [part for i in '12' for part in
                                           (i, *(part for token in tokens for part in (f'␣{token[1:]}', '0.250')))]
    # A grid
    assert len({line.index('0.250') for line in lines[1:]}) == 1


def test_a_token_wider_than_the_terminal_stands_alone(capsys, terminal):
    terminal(10)
    assert shown(capsys, fillings.print_predictions, filled(['a' * 20, 'b'])).splitlines()[1:] == \
        [f'    {"a" * 20} 0.250', f'    b{" " * 19} 0.250']


def test_candidates_are_cut_at_the_edge(capsys, terminal):
    found = [Candidate('漢字', 0.5, -1.386, ['漢', '字']), Candidate('a dog', 2e-5, -43.279, list(' a dog') * 3)]
    ranked = Ranked('[MASK]', '漢字', found)
    lines = shown(capsys, fillings.print_candidates, ranked).splitlines()
    assert lines == ['漢字', '  candidate  per token   log p  tokens', '  漢字           0.500   -1.39  漢 字',
                     '  a␣dog        2.0e-05  -43.28  ' + ' '.join('␣a␣dog' * 3)]
    terminal(40)
    *_, last = shown(capsys, fillings.print_candidates, ranked).splitlines()
    assert last == '  a␣dog        2.0e-05  -43.28  ␣ a ␣ d…'


def test_fillings_have_their_probability(capsys):
    together = TogetherFilled('[MASK][MASK]', 'the fox', [Filling('the fox', ['the', ' fox'], 0.75),
                                                          Filling('a dog', ['a', ' dog'], 0.00002)])
    assert shown(capsys, fillings.print_together, together) == (
        'the fox\n'
        '    0.750  the  ␣fox\n'
        '  2.0e-05  a    ␣dog\n')
