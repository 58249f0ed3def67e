import itertools

import pytest
from rich.console import Console

from labml_mlm.screen.live_frame import Frame, duration, summary


def frame(n=200, *, is_ascii=False, more=()):
    made = Frame(is_ascii=is_ascii)
    made.epoch, made.end_epoch, made.steps, made.steps_left = 1, 4, 834, 1238
    made.phase, made.elapsed, made.left = 'training', 83., 125.
    for i in range(n):
        for name, value in (('loss.train', 4 - i / n), ('accuracy.train', i / n), ('lr', 0.002),
                            ('tokens_per_second', 19300.)):
            made.add(name, value)
    for name in ('loss.valid', 'accuracy.valid', 'loss.old', 'masking_prob', *more):
        made.add(name, 0.5)
    made.add('seq_len', 32.)
    return made


def lines_of(made, width, height=30):
    console = Console(width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(made.draw(width, height), soft_wrap=True)
    return capture.get().splitlines()


@pytest.mark.parametrize('width, height', list(itertools.product([1, 20, 40, 60, 80, 100, 130, 200], [5, 24])))
def test_no_line_is_wider_than_the_terminal(width, height):
    long = [f'a_metric_with_a_long_name_{i}.valid' for i in range(5)]
    for made in (frame(), frame(0), frame(more=long), frame(is_ascii=True)):
        assert max(map(len, lines_of(made, width, height))) <= width


@pytest.mark.parametrize('width', [40, 80, 130])
def test_what_a_person_wants_to_know_is_there(width):
    shown = '\n'.join(lines_of(frame(), width))
    for text in ('epoch 2/4', 'step 834/2,072', 'training', '40%', '1:23', '2:05 left', 'loss', 'accuracy', 'train',
                 'valid', 'old', 'lr 0.0020', 'masking_prob 0.5000'):
        assert text in shown, text
    assert ('19,300 tokens/s' in shown and 'seq_len 32' in shown) == (width > 40)
    assert ('█' in shown) == (width > 40)


def test_plot_stands_where_there_is_room():
    assert len(lines_of(frame(), 130)) + 3 < len(lines_of(frame(), 80)) == len(lines_of(frame(), 40)) + 5
    assert len(lines_of(frame(), 80, 12)) == len(lines_of(frame(), 40))
    assert all(line.isascii() for line in lines_of(frame(is_ascii=True), 80) if '%' not in line)


def test_metrics_of_training_are_smoothed_and_others_are_not():
    made = Frame()
    for value in (4., 2., 3.):
        made.add('loss.train', value)
        made.add('loss.valid', value)
        made.add('lr', value)
    assert made.metrics == {'loss.train': 3., 'loss.valid': 3., 'lr': 3.}
    for _ in range(20):
        made.add('loss.train', 1.)
    assert made.metrics['loss.train'] == pytest.approx(1.3 * 0.95 ** 3 + 1 - 0.95 ** 3)
    # After a value that is not a number it begins again
    made.add('loss.train', float('nan'))
    made.add('loss.train', 7.)
    assert made.metrics['loss.train'] == 7.


@pytest.mark.parametrize('width, n', [(20, 0), (30, 1), (40, 2), (56, 3), (80, 3), (130, 3)])
def test_guesses_are_shown_as_far_as_there_is_room(width, n):
    made = frame()
    n_before = len(lines_of(made, width))
    made.guesses = {'unigram': 3.31234, 'bigram': 2.4, 'neighbours': 1.98}
    lines = lines_of(made, width)
    assert max(map(len, lines)) <= width
    [line] = [line[:56] for line in lines if line.startswith('guess')]
    shown = ['unigram 3.3123', 'bigram 2.4000', 'neighbours 1.9800'][:n]
    assert line.removeprefix('guess').strip() == '  '.join(shown)
    assert len(lines) == n_before + 1


def test_other_names_of_metrics():
    """As of fine-tuning."""
    made = Frame()
    for name in ('loss.train', 'entity_f1.valid', 'loss.valid'):
        made.add(name, 0.25)
    lines = [line.rstrip() for line in lines_of(made, 60)[2:]]
    assert lines == ['            loss  entity_f1', 'train     0.2500', 'valid     0.2500     0.2500']


def test_no_time_is_left_before_there_is_an_estimate():
    made = frame()
    made.left = None
    assert 'left' not in ''.join(lines_of(made, 80)) and '1:23 elapsed' in ''.join(lines_of(made, 40))


def test_line_on_a_validation_is_as_long_as_the_screen_is_wide():
    metrics = {'loss.train': 1., 'lr': 0.1, 'loss.valid': 2., 'accuracy.valid': 0.5}
    assert summary(metrics, steps=1234, width=99) == 'step 1,234  loss.valid 2.0000  accuracy.valid 0.5000  ' \
        'loss.train 1.0000'
    assert summary(metrics, steps=1234, width=40) == 'step 1,234  loss.valid 2.0000'


@pytest.mark.parametrize('seconds, text', [(0.9, '0:00'), (83, '1:23'), (3600, '1:00:00'), (90061, '25:01:01')])
def test_durations(seconds, text):
    assert duration(seconds) == text
