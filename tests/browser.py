"""A real browser, headless, for pages."""

import contextlib
import shutil

import pytest

FLAGS = [
    '--headless=new',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--hide-scrollbars',
]


@contextlib.contextmanager
def opened(path, width=1100, dark=False):
    """A page of this machine in Chromium. Skips the test where there is none."""
    driver = shutil.which('chromedriver')
    program = shutil.which('chromium') or shutil.which('google-chrome')
    if not (driver and program):
        pytest.skip('needs Chromium and chromedriver (Debian: chromium, chromium-driver)')
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    for flag in (*FLAGS, f'--window-size={width},900'):
        options.add_argument(flag)
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        media = [{'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}]
        browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': media})
        size = {'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': width < 500}
        browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', size)
        browser.get(path.resolve().as_uri())
        yield browser
    finally:
        browser.quit()


def problems(browser):
    """What the console complains of, and pictures that cannot be decoded."""
    found = [entry['message'] for entry in browser.get_log('browser')]
    broken = 'return [...document.images].filter(i => !i.complete || !i.naturalWidth).length'
    if browser.execute_script(broken):
        found.append('a picture cannot be decoded')
    return found
