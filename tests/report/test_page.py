"""The page of a report, read by a parser and in a browser."""
import html.parser
import json
import re
import time

import pytest
from support.runs import SNAPSHOT, log_metrics

from labml_mlm.report.gather import gather
from labml_mlm.report.page import page

EVIL = '<script>alert(1)</script><img src=x onerror=alert(1)>&amp;"\'</style></title>'


class Elements(html.parser.HTMLParser):
    """Elements with attributes, and all text."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def make_run(make):
    def make_run(uuid, *, given=None, experiment='test', n=3, name_of_sample='dog', **more):
        run = make(uuid, experiment, snapshot={**SNAPSHOT, 'defaults': {'seq_len': 32, 'text': 'auto'},
                                               'given': given or {}, **more})
        log_metrics(run, loss_train={i: 3 - i / n for i in range(n)}, loss_valid={n: 2.}, accuracy_valid={n: 0.5})
        sample = {'tokens': [name_of_sample, 'b'], 'places': [0], 'filled': [name_of_sample], 'is_right': [False]}
        run.samples.path.write_text(json.dumps({'step': n, 'loss': 2., 'accuracy': 0.5, 'samples': [sample]}) + '\n')
        return run
    return make_run


def written(*runs):
    return page([gather(run) for run in runs], now=time.time())


def test_all_texts_are_escaped(make_run):
    evil = {'given': {'text_path': EVIL}, 'text': {'source': EVIL, 'sha256': EVIL}, 'script': EVIL,
            'versions': {EVIL: EVIL}, 'tokenizer': {'kind': EVIL}}
    run = make_run('feed', experiment='<script>alert(2)<', name_of_sample=EVIL, **evil)
    with open(run.log, 'a') as f:
        track = {f'baseline.{EVIL}': [[1, [2.]]], f'{EVIL}.valid': [[3, [1.]]]}
        f.write(json.dumps({'track': track, 'time': 0}) + '\n')
    source = written(run)
    found = Elements(source)
    tags = {tag for tag, _ in found.elements}
    assert not tags & {'script', 'img', 'iframe', 'object', 'link', 'a', 'form'}
    assert [tag for tag, _ in found.elements].count('style') == 1
    assert not any(name.startswith('on') or name in ('src', 'href') for _, attributes in found.elements
                   for name in attributes)
    # But they are there to be read
    text = ''.join(found.texts)
    assert text.count('<script>alert(1)</script>') >= 5 and '<script>alert(2)<' in text


def test_nothing_is_asked_of_a_network(make_run):
    source = written(make_run('feed'))
    assert not re.search(r'https?://|url\(|@import|src=|href=', source)
    assert "default-src 'none'" in source


def test_items_that_differ_and_those_that_do_not(make_run):
    first, second = (make_run(uuid, given={'seq_len': n, 'epochs': 3, 'rate': rate}) for uuid, n, rate in
                     (('feed', 64, 1e-5), ('cafe', 16, 1e-5)))
    differ, same = re.search('Items that differ(.*?)<h2>(.*?)<h2>', written(first, second), re.DOTALL).groups()
    assert '64' in differ and '16' in differ and 'seq_<wbr>len' in differ and 'epochs' not in differ
    assert 'epochs' in same and '1e-05' in same and 'seq_<wbr>len' not in same
    assert 'Items that differ' not in written(first)


def test_one_run_has_its_figures(make_run):
    text = ' '.join(Elements(written(make_run('feed'))).texts)
    assert 'test: run feed' in text
    assert re.search(r'best loss\. valid +2\.0000', text) and re.search(r'best accuracy\. valid +0\.5000', text)


def test_baselines_are_there_once_unless_they_differ(make_run):
    runs = [make_run(uuid) for uuid in ('feed', 'cafe', 'beef')]
    for run, other in zip(runs, (1.5, 1.5, 1.7), strict=True):
        with open(run.log, 'a') as f:
            f.write(json.dumps({'track': {'baseline.unigram': [[1, [2.5]]], 'baseline.both': [[1, [other]]],
                                          'baseline.unigram.accuracy': [[1, [0.25]]]}, 'time': 0}) + '\n')
    labels = re.findall(r'<span class="line"[^>]*>([^<]*)<', written(*runs))
    assert labels == ['both, test feed 1.500', 'both, test beef 1.700', 'unigram 2.500', 'unigram 0.250']


def test_damage_is_said(make_run):
    run = make_run('feed')
    with open(run.log, 'a') as f:
        f.write('x\n')
    assert 'feed: 1 damaged line of its metrics is left out' in written(run)


def test_long_runs_fit_a_megabyte(make_run):
    """Twelve runs with long curves, samples and values."""
    runs = [make_run(f'{i:04x}', n=2000, given={'text_path': ['a' * 100] * 1000}) for i in range(12)]
    for run in runs:
        log_metrics(run, **{f'{panel}_{part}': {i: i / 2000 for i in range(2000)}
                            for panel in ('loss', 'accuracy') for part in ('train', 'valid')})
        sample = {'tokens': ['word '] * 5000, 'places': [3], 'filled': ['x'], 'is_right': [False]}
        run.samples.path.write_text(''.join(json.dumps(
            {'step': step, 'loss': 2., 'accuracy': 0.5, 'samples': [sample] * 3}) + '\n' for step in range(20)))
    source = written(*runs)
    assert len(source.encode()) < 1_000_000
    assert source.count('class="train') == 24


def test_run_without_metrics_and_samples(make):
    source = written(make('feed', snapshot=SNAPSHOT))
    assert 'There is neither loss nor accuracy yet' in source and 'Samples' not in source


@pytest.mark.parametrize('width', [390, 1366])
def test_page_is_as_wide_as_the_window(make_run, browser, tmp_path, width):
    """Wide tables move within themselves."""
    runs = [make_run(f'{i:08x}', given={'seq_len': i, 'text_path': '/a/long/path' * 10}, name_of_sample='word ' * 40)
            for i in range(6)]
    path = tmp_path / 'report.html'
    path.write_text(written(*runs))
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', {
        'width': width, 'height': 800, 'deviceScaleFactor': 1, 'mobile': False})
    browser.get(path.as_uri())
    assert browser.execute_script('return document.documentElement.scrollWidth') <= width
    chart = browser.find_element('css selector', '.chart').rect
    assert chart['x'] > 0 and chart['x'] + chart['width'] <= width and chart['height'] > 200
