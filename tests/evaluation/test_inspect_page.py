"""The page of a text, read by a parser and in a browser."""
import html.parser
import math
import re

import pytest

from labml_mlm.evaluation.inspect_page import _LEVELS, ShownToken, fragment, page
from labml_mlm.inference.fill_mask import Prediction

EVIL = '<script>alert(1)</script>&amp;"\'</style>'


def shown(text, p=0.5, *, rank=1):
    choices = [Prediction(f'{letter}', 0.5 ** i) for i, letter in enumerate('abcde', start=1)]
    return ShownToken(text, math.log(p), rank, choices)


class Elements(html.parser.HTMLParser):
    """Elements with attributes, and the text of those with class `token`."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.texts, self._is_token = [], [], False
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._is_token = dict(attrs).get('class', '').startswith('token')

    def handle_data(self, data):
        if self._is_token:
            self.texts.append(data)
            self._is_token = False


@pytest.mark.parametrize('make', [page, fragment])
def test_everything_is_escaped(make):
    tokens = [ShownToken(EVIL, -1., 2, [Prediction(EVIL, 0.5)]), shown('\0\x1b')]
    found = Elements(make(EVIL, EVIL, {EVIL: EVIL}, tokens))
    assert {tag for tag, _ in found.elements} <= {'html', 'head', 'meta', 'title', 'style', 'body', 'div', 'h1', 'p',
                                                  'dl', 'dt', 'dd', 'span', 'u'}
    assert found.texts == [EVIL, '␀␛']
    [label, _] = [attributes['aria-label'] for _, attributes in found.elements if 'aria-label' in attributes]
    assert label.startswith(f'‹{EVIL}›') and label.count(EVIL) == 2
    assert make(EVIL, EVIL, {EVIL: EVIL}, tokens).count('</style>') == 1


@pytest.mark.parametrize('make', [page, fragment])
def test_nothing_comes_from_elsewhere(make):
    source = make('the', 'a run', {}, [shown('the')])
    assert not re.search(r'https?:|src=|href=|url\(|@import|<script|<link', source)


def test_strength_grows_as_probability_falls():
    ps = [0.9, 0.5, 0.3, 0.2, 0.05, 0.005, 1e-9, 0.]
    tokens = [shown('a', max(p, 1e-320)) for p in ps]
    levels = [int(re.search(r'level-(\d)', attributes['class'])[1])
              for _, attributes in Elements(page('', '', {}, tokens)).elements
              if attributes.get('class', '').startswith('token')]
    assert levels == [0, 0, 1, 2, 3, 4, 5, 5]
    # Text of black on white, and of white on nearly black, has a contrast of 4.5 on the strongest colour, too
    strength = _LEVELS[-1][1]
    for paper, ink in ((255, 0), (18, 255)):
        mixed = [strength * c + (1 - strength) * paper for c in (230, 110, 0)]
        light, dark = sorted([luminance(mixed), luminance([ink] * 3)], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def luminance(rgb):
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_tokens_that_are_never_masked_have_no_colour():
    found = Elements(page('', '', {}, [ShownToken('x', None, None, []), shown('y', rank=3)]))
    assert found.texts == ['y']
    assert ['not-first' in attributes['class'] for _, attributes in found.elements
            if attributes.get('class', '').startswith('token')] == [True]


def test_styles_of_a_fragment_are_its_own():
    style = re.search('<style>(.*)</style>', fragment('', '', {}, []), re.S)[1]
    selectors = [selector.strip() for block in re.findall(r'([^{}]+)\{', style) for selector in block.split(',')]
    assert len(selectors) > 10 and all(selector.startswith('.labml-mlm') for selector in selectors)


def test_choices_are_seen_by_pointer_and_keyboard_at_any_width(browser, tmp_path):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    # Long lines, so that some tokens are at the right edge
    tokens = [shown(f' word{i}') for i in range(200)] + [shown('\n')]
    (tmp_path / 'page.html').write_text(page('', EVIL, {'tokens': '201'}, tokens))
    box = ("const s = getComputedStyle(arguments[0], '::after'); return [s.display, s.content, "
           'document.documentElement.scrollWidth <= innerWidth]')
    for width in 1280, 390:
        browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', {
            'width': width, 'height': 800, 'deviceScaleFactor': 1, 'mobile': width < 500})
        browser.get((tmp_path / 'page.html').as_uri())
        elements = browser.find_elements(By.CSS_SELECTOR, '.token')
        assert browser.execute_script(box, elements[0])[0] == 'none'
        rightmost = max(elements[:60], key=lambda element: element.rect['x'] + element.rect['width'])
        ActionChains(browser).move_to_element(rightmost).perform()
        display, content, fits = browser.execute_script(box, rightmost)
        assert display == 'block' and 'a' in content and fits
        ActionChains(browser).move_to_element(browser.find_element(By.TAG_NAME, 'h1')).send_keys(Keys.TAB).perform()
        focused = browser.switch_to.active_element
        assert focused == elements[0] and browser.execute_script(box, focused)[0] == 'block'
