import threading
import time

import pytest
from labml.logger import Text

from labml_mlm.notebook import page as module
from labml_mlm.notebook.page import _MAX_LINES, NotebookDestination, NotebookView, Page
from labml_mlm.screen.time_left import Work


@pytest.fixture
def shown():
    """What is shown: HTML, id, whether it is an update."""
    return []


@pytest.fixture
def new_page(shown):
    return lambda: Page(lambda *what: shown.append((time.monotonic(), *what)))


def test_there_is_one_output_that_is_updated(new_page, shown):
    with new_page() as page:
        assert shown == []
        for i in range(1000):
            page.add_line(f'line {i}')
            time.sleep(0.001)
    # Half a second apart, but for the last one
    assert 2 <= len(shown) <= 5
    assert [is_update for *_, is_update in shown] == [False] + [True] * (len(shown) - 1)
    assert len({identity for _, _, identity, _ in shown}) == 1
    times = [at for at, *_ in shown]
    assert all(b - a > 0.4 for a, b in zip(times[:-2], times[1:-1], strict=True))
    assert 'line 999' in shown[-1][1]


def test_nothing_is_shown_of_a_run_that_says_nothing(new_page, shown):
    with pytest.raises(ValueError), new_page():
        raise ValueError
    assert shown == []
    assert threading.active_count() == 1


def test_many_messages_are_bounded(new_page):
    page = new_page()
    destination = NotebookDestination(page)
    for i in range(5000):
        destination.log([f'{i} ' + 'x' * 10_000], is_new_line=True, is_reset=True)
    text = page.html()
    assert f'… {5000 - _MAX_LINES:,} lines before' in text
    assert '4999 xxx' in text and '4799 xxx' not in text
    assert len(text) < 100_000


def test_messages_are_whole_lines_of_text(new_page):
    page = new_page()
    destination = NotebookDestination(page)
    parts = ['<b> & ', ('5%', Text.value), (' of it', [Text.value, Text.meta])]
    destination.log(parts, is_new_line=True, is_reset=True)
    destination.log(['Tokenize ', '5%'], is_new_line=False, is_reset=True)
    destination.log(['Tokenize...', '[DONE]', '\n'], is_new_line=False, is_reset=True)
    text = page.html()
    assert '&lt;b&gt; &amp; <span style="font-weight: bold">5%</span>' in text
    assert '<span style="font-weight: bold; opacity: .75"> of it</span>' in text
    assert 'Tokenize...[DONE]' in text
    assert 'Tokenize 5%' not in text


def test_a_page_shows_what_is_live_below_its_messages(new_page, shown):
    with new_page() as page:
        page.add_line('message')
        page.live = lambda: 'progress'
    assert shown[-1][1].endswith('message</div>progress')


def test_the_view_of_a_run_is_on_its_page(monkeypatch):
    texts = []
    monkeypatch.setattr(module, '_display', lambda text, *_: texts.append(text))
    work = Work(steps=3, seconds=1., length=0, left={0: 7.}, is_shorter_faster=False, validations=1, passes=1.,
                saves=1., n_saved=0, save_seconds=0.)
    view = NotebookView(lambda: work)
    with module.page() as page:
        for _ in view.epochs(0, 1):
            assert 'epoch <b>1/1</b>' in page.html() and 'step <b>3/10</b>' in page.html()
    assert 'step <b>3/10</b>' in texts[-1]
