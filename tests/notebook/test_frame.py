import math
import re

import pytest

from labml_mlm.notebook.frame import NotebookFrame


def frame_of(n, *, loss=lambda step: 3. - step / 1000):
    frame = NotebookFrame()
    frame.epoch, frame.end_epoch, frame.phase = 1, 4, 'training'
    for step in range(n):
        frame.steps, frame.steps_left = step + 1, 2 * n - step - 1
        for name, value in {'loss.train': loss(step), 'accuracy.train': 0.5, 'tokens_per_second': 1e4, 'lr': 2e-3,
                            'seq_len': 32.}.items():
            frame.add(name, value)
        if step % 100 == 99:
            frame.add('loss.valid', loss(step) + 0.1)
            frame.add('accuracy.valid', 0.45)
    frame.elapsed, frame.left = 83., 125.
    return frame


def text_of(markup):
    return ' '.join(re.sub('<[^>]*>', ' ', markup).replace('&nbsp;', ' ').split())


def test_it_says_what_the_live_view_says():
    text = text_of(frame_of(1000).draw(100, 0))
    assert text.startswith('epoch 2/4 step 1,000/2,000 training 10,000 tokens/s 50% 1:23 elapsed, 2:05 left')
    assert 'loss accuracy train 2.0200 0.5000 valid 2.1010 0.4500 lr 0.0020 seq_len 32' in text


def test_the_plot_grows_and_is_bounded():
    sizes = [len(frame_of(n).draw(100, 0)) for n in (10, 100, 1000, 10_000)]
    assert sizes[0] < sizes[1] < sizes[2]
    assert max(sizes) < 20_000
    assert '<svg' not in frame_of(1).draw(100, 0)


def points_of(markup):
    lines = re.findall(r'<polyline points="([^"]*)"', markup)
    return [[tuple(map(float, point.split(','))) for point in line.split()] for line in lines]


def test_curves_are_in_the_plot():
    train, valid = points_of(frame_of(1000).draw(100, 0))
    assert len(valid) == 10
    for curve in (train, valid):
        # Smaller losses are further down, and later steps further right
        assert [x for x, _ in curve] == sorted(x for x, _ in curve)
        assert [y for _, y in curve] == sorted(y for _, y in curve)
        assert all(0 <= x <= 640 and 0 <= y <= 220 for x, y in curve)
    # At the same step the validation loss is a little higher
    assert train[-1][0] == pytest.approx(valid[-1][0])
    assert valid[-1][1] < train[-1][1]


def test_what_is_not_finite_is_left_out_of_the_plot():
    frame = frame_of(300, loss=lambda step: math.nan if step % 2 else 2.)
    assert 'nan' not in ' '.join(re.findall('<svg.*', frame.draw(100, 0)))
