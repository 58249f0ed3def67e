"""A browser for tests of pages."""
import shutil

import pytest


@pytest.fixture
def browser():
    webdriver = pytest.importorskip('selenium.webdriver')
    chromium, driver = shutil.which('chromium'), shutil.which('chromedriver')
    if not (chromium and driver):
        pytest.skip('there is no Chromium: apt-get install chromium chromium-driver')
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ('--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-sync',
                     '--disable-dev-shm-usage'):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()
