"""
A run in a real browser that can reach this machine only.

With `SCREENSHOT=docs/app.png` in the environment, a screenshot of the run's page is saved there.
"""
import json
import os
import re
import shutil
from pathlib import Path

import pytest

webdriver = pytest.importorskip('selenium.webdriver')
By = pytest.importorskip('selenium.webdriver.common.by').By
WebDriverWait = pytest.importorskip('selenium.webdriver.support.wait').WebDriverWait

CHROMIUM, DRIVER = shutil.which('chromium'), shutil.which('chromedriver')


@pytest.fixture
def browser():
    if not (CHROMIUM and DRIVER):
        pytest.skip('there is no Chromium: apt-get install chromium chromium-driver')
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ('--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-sync',
                     '--disable-dev-shm-usage', '--window-size=1100,900',
                     '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1'):
        options.add_argument(argument)
    options.set_capability('goog:loggingPrefs', {'performance': 'ALL'})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield browser
    browser.quit()


def requested_urls(browser):
    """The URLs that its pages have requested."""
    messages = [json.loads(entry['message'])['message'] for entry in browser.get_log('performance')]
    return {message['params']['request']['url'] for message in messages
            if message['method'] == 'Network.requestWillBeSent'}


def test_run_is_shown_in_a_browser(app, project, browser):
    project.configure(app.app_url)
    project.script.write_text(project.script.read_text().replace('"test"', '"char_mlm"'))
    # Long enough for a curve with some points
    result = project.train('epochs=10', 'batch_size=15', 'optimizer.learning_rate=0.01', 'd_model=24')
    assert result.returncode == 0, result.stderr
    [folder] = project.runs

    def found(selector, text=''):
        def look(_):
            return [element for element in browser.find_elements(By.CSS_SELECTOR, selector) if text in element.text]
        return WebDriverWait(browser, 30).until(look)

    browser.get(f'{app.url}/')
    [run] = [link for link in found('a.list-item', 'char_mlm') if folder.name in link.get_attribute('href')]
    assert 'COMPLETED' in run.text
    run.click()

    WebDriverWait(browser, 30).until(lambda _: browser.current_url == f'{app.url}/run/{folder.name}')
    found('body', 'COMPLETED')
    found('body', 'loss.valid')
    curves = [path.get_attribute('d') for path in found('svg path')]
    assert max(len(re.findall('[LC]', curve or '')) for curve in curves) > 10
    # What was given, and the curves of training and validation
    page = found('body', 'CONFIGURATIONS')[0].text
    assert re.search(r'epochs\s*:?\s*10\b', page) and 'Default configurations' not in page
    assert 'd_model=24' in found('h5, h6', 'epochs=10')[0].text
    for name in ('loss.train', 'loss.valid', 'accuracy.train', 'accuracy.valid'):
        found('body', name)
    assert not [button for button in browser.find_elements(By.CSS_SELECTOR, '.process-row .nav-link')
                if button.is_displayed()]
    page = browser.find_element(By.TAG_NAME, 'body').text
    assert 'not claimed' not in page.lower() and 'will be deleted' not in page.lower()
    if path := os.environ.get('SCREENSHOT'):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        assert browser.save_screenshot(path)

    browser.get(f'{app.url}/run/{folder.name}/configs')
    assert re.search(r'learning_rate\s*0\.01', found('body', 'learning_rate')[0].text)

    urls = [url for url in requested_urls(browser) if not url.startswith('data:')]
    assert len(urls) > 10
    assert [url for url in urls if not url.startswith(f'{app.url}/')] == []
