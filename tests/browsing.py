"""A headless Chromium for tests of pages."""

import shutil
from contextlib import contextmanager

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
PATIENCE_MS = 300_000


@contextmanager
def chromium():
    """A browser; the test is skipped where there is none."""
    if not CHROMIUM:
        pytest.skip("no chromium on the PATH: apt-get install -y chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: make test-browser installs it")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=CHROMIUM, args=[*QUIET, "--disable-sync"], timeout=PATIENCE_MS
        )
        try:
            yield browser
        finally:
            browser.close()
