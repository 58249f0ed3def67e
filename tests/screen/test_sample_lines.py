"""Samples in lines: blanks, alignment by display width, and what is cut."""
import pytest
from rich.cells import cell_len

from labml_mlm.screen import sample_lines as module
from labml_mlm.screen.sample_lines import sample_lines


@pytest.fixture(autouse=True)
def unicode_output(monkeypatch):
    monkeypatch.setattr(module, 'is_unicode', lambda: True)


def texts_of(tokens, positions, *fillings, width=100):
    return [''.join(part.text for part in line) for line in sample_lines(tokens, positions, fillings, width=width)]


def test_masked_filled_and_true_text_are_one_under_the_other():
    tokens = ['the', ' quick', ' brown', ' fox', '!']
    assert texts_of(tokens, [1, 3], [' lazy', ' box']) == [
        'the ░░░░░ brown ░░░!',
        'the lazy  brown box!',
        'the quick brown fox!']
    # Of several validations, too
    assert texts_of(tokens, [1], [' lazy'], [' extremely'])[1:] == [
        'the lazy      brown fox!', 'the extremely brown fox!', 'the quick     brown fox!']


def test_blank_is_not_in_the_text():
    assert texts_of(['def', ' ', '_', 'x'], [3], ['y'])[0] == 'def _░'
    assert texts_of(['░', 'x'], [1], ['y'])[0] == '░▒'
    # Nor in what is predicted
    assert texts_of(['a', 'x'], [1], ['░'])[0] == 'a▒'


def test_output_without_unicode_has_a_blank_and_an_ellipsis_of_its_own(monkeypatch):
    monkeypatch.setattr(module, 'is_unicode', lambda: False)
    assert texts_of(['def', '_', 'x'], [2], ['y'])[0] == 'def_~'
    assert texts_of(list('a' * 40) + ['x'], [40], ['y'], width=10) == ['...aaa_', '...aaay', '...aaax']


@pytest.mark.parametrize('tokens, positions, filling', [
    (['日', '本', '語'], [1], ['a']), (['a', 'b', 'c'], [1], ['本']), (['👩', 'x', '👩'], [1], ['👩']),
    (['e', '\u0301', 'x'], [1], ['o']), (['क', 'े', ' ', 'द'], [0], ['x']), (['क', 'े', ' '], [1], ['्']),
    (['a', '\u0301', 'b', 'c'], [0, 2], ['\u0301', '日'])])
def test_columns_stand_one_under_the_other_by_display_width(tokens, positions, filling):
    lines = sample_lines([*tokens, '|'], positions, [filling], width=100)
    ends = set()
    for line in lines:
        text = ''.join(part.text for part in line)
        assert text.endswith('|')
        ends.add(cell_len(text))
        # Each blank begins and ends at the same place
        ends |= {(part.blank, cell_len(''.join(before.text for before in line[:i])), cell_len(part.text))
                 for i, part in enumerate(line) if part.blank is not None}
    assert len(ends) == 1 + len(positions)


def test_combining_mark_in_or_after_a_blank_does_not_join_it():
    masked, filled, true = texts_of(['क', 'े', ' '], [0], ['x'])
    assert [masked, filled, true] == ['░◌े ', 'x◌े ', 'क◌े ']
    assert texts_of(['क', 'े', ' '], [1], ['x'])[2] == 'क◌े '


def test_long_text_is_cut_to_the_width_around_most_blanks():
    tokens = list('x' * 200 + 'a' + 'x' * 100 + 'bcd' + 'x' * 200)
    positions = [200, 301, 302, 303]
    for width in (20, 40, 80):
        for text in texts_of(tokens, positions, list('abcd'), width=width):
            assert cell_len(text) == width
            assert text.startswith('…x') and text.endswith('x…')
        masked, _, true = texts_of(tokens, positions, list('abcd'), width=width)
        assert masked.count('░') == 3 and 'bcd' in true
        # Not at its edge
        assert abs(masked.index('░') - width / 2) < 5
    assert '…' not in texts_of(tokens, positions, list('abcd'), width=504)[0]
    masked = texts_of(tokens, [0], ['y'], width=20)[0]
    assert masked.startswith('░') and masked.endswith('…')


def test_wide_characters_are_not_cut_in_half():
    for width in range(10, 30):
        lines = texts_of(list('日本語' * 20), [30], ['字'], width=width)
        assert all(width - 3 <= cell_len(line) <= width for line in lines)
        assert len({cell_len(line) for line in lines}) == 1


def test_huge_predictions_are_cut():
    masked, filled, _ = texts_of(['a', 'b', 'c'], [1], ['=' * 300], width=60)
    assert len(masked) == len(filled) == 42


def test_text_from_right_to_left_is_isolated():
    for tokens, begin in ((list('שלום'), '\u2067'), (['a', ' ', 'ש'], '\u2066'), (list('سلام'), '\u2067')):
        lines = texts_of(tokens, [1], [tokens[0]])
        assert all(line[0] == begin and line[-1] == '\u2069' for line in lines)
    # Also where only the prediction is
    assert all(line.startswith('\u2066') for line in texts_of(['a', 'b'], [1], ['ש']))
    assert not any('\u2066' in line for line in texts_of(['a', 'b'], [1], ['c']))


def test_truth_that_is_not_known_takes_no_place():
    masked, filled, _ = texts_of(['d', '[MASK]', 'x'], [1], ['ef'])
    assert [masked, filled] == ['d░░x', 'defx']
