"""Debian's Chromium, without a screen, and what no page may do in it: fail, break the policy, ask another host.

Where the browser or playwright is missing, these tests are skipped; with FLOWSTORE_TEST_BROWSER=1 they fail instead.
`--screenshots FOLDER` keeps a picture of each page that a test looks at.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys

import pytest

OPTIONS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
REQUIRED = os.environ.get("FLOWSTORE_TEST_BROWSER") == "1"  # before each test loses the user's own settings


@pytest.fixture(scope="session")
def chromium():
    """The browser, started once."""
    program = shutil.which("chromium")
    missing = "chromium" if program is None else "playwright"
    if program is None or importlib.util.find_spec("playwright") is None:
        (pytest.fail if REQUIRED else pytest.skip)(
            f"{missing} is missing: apt-get install chromium, pip install playwright"
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*OPTIONS])
        yield browser
        browser.close()


class Watched:
    """A page in the browser, and everything that it should not have done."""

    def __init__(self, page, url, folder):
        self.page = page
        self.home = url.partition("?")[0]
        self.problems = []
        self._folder = folder
        page.set_default_timeout(15_000)
        page.on("console", lambda message: message.type in {"error", "warning"} and self._note(message.text))
        page.on("pageerror", lambda error: self._note(str(error)))
        page.on("request", lambda request: self._check(request.url))
        page.goto(url)

    def _note(self, problem):
        self.problems.append(problem)

    def _check(self, url):
        if not url.startswith((self.home, "data:", "about:", "blob:")):
            self._note(f"asked another host: {url}")

    def go(self, path):
        """Open another page."""
        self.page.goto(self.home + path.removeprefix("/"))

    def picture(self, name):
        """Keep a picture of the whole page, where the test run keeps them."""
        if self._folder:
            self.page.screenshot(path=f"{self._folder}/{name}.png", full_page=True)


@pytest.fixture
def visit(chromium, request, tmp_path):
    """Start `flowstore ui` on a store and open the address that it prints; gives a `Watched` page."""
    with contextlib.ExitStack() as stack:
        watched = []

        def begin(store, *, width=1280, color_scheme="light", javascript=True, bypass_csp=False, options=()):
            url = stack.enter_context(served(store, *options))
            context = chromium.new_context(
                viewport={"width": width, "height": 900},
                color_scheme=color_scheme,
                java_script_enabled=javascript,
                bypass_csp=bypass_csp,
            )
            stack.callback(context.close)
            watched.append(Watched(context.new_page(), url, request.config.getoption("screenshots")))
            return watched[-1]

        yield begin
        assert [page.problems for page in watched if page.problems] == []


@contextlib.contextmanager
def served(store, *options):
    """Run `flowstore ui` on a store, and stop it at the end; gives the address that it prints."""
    command = [sys.executable, "-m", "flowstore", "ui", str(store), "--no-browser", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
