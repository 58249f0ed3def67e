import re

from labml_mlm.report.samples import sample_tables, some
from labml_mlm.runs.samples_log import Sample, ValidationSamples


def validation(step, filled, *, tokens='the dog', positions=(4, 6), truth='dg'):
    sample = Sample(list(tokens), list(positions), list(filled), [a == b for a, b in zip(filled, truth, strict=True)])
    return ValidationSamples(step, 2., 0.5, [sample])


def test_guesses_are_marked_as_right_and_wrong():
    html = sample_tables([validation(10, 'xg')])
    assert 'the <del>x</del>o<ins>g</ins>' in html
    assert '1 of 2' in html and html.endswith('the dog</table></div></div>')


def test_guesses_at_masks_of_a_prompt_are_neither_right_nor_wrong():
    sample = Sample([*'the ', '[MASK]', *'og'], [4], ['d'], [None])
    html = sample_tables([ValidationSamples(10, 2., 0.5, [sample])])
    assert 'the <b>d</b>og' in html and '<ins>' not in html and '<del>' not in html
    assert '<td>-<td' in html and 'the prompt' in html and 'the [MASK]og' in html


def test_prompts_of_a_resumed_run_have_tables_of_their_own():
    html = sample_tables([validation(10, 'dg'), validation(20, 'dg'), validation(30, 'dg', tokens='two dog')])
    assert html.count('<table') == 2 and '<ins>' in html


def test_long_samples_and_many_of_them_are_cut():
    tokens = 'abcdefgh ' * 1000
    html = sample_tables([validation(step, 'xx', tokens=tokens, positions=(500, 502), truth='dg')
                          for step in range(1, 1001)])
    steps = re.findall(r'<tr><td>([\d,]+)<', html)
    assert len(steps) == 8 and (steps[0], steps[-1]) == ('1', '1,000')
    assert len(html) < 10_000 and '<del>x</del>' in html and '… ' in html


def test_some_keeps_first_and_last():
    assert some(range(5), 8) == [0, 1, 2, 3, 4]
    assert some(range(100), 4) == [0, 33, 66, 99]
