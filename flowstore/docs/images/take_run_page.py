"""Take the picture of the README: the page of a run of `flowstore demo`, in light and in dark colours.

    python flowstore/docs/images/take_run_page.py

writes `run-page-light.png` and `run-page-dark.png` beside this file. It needs the extra `browser`, Pillow and Chromium.
Take it again when the page looks different.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

HERE = Path(__file__).parent
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


def take(browser: Browser, url: str, scheme: Literal["light", "dark"]) -> None:
    """Write the picture of the demo's run in one colour scheme."""
    page = browser.new_page(viewport={"width": 1080, "height": 900}, color_scheme=scheme, device_scale_factor=1.5)
    page.goto(url)
    page.goto(f"http://{urlsplit(url).netloc}/run/PenguinsFlow/latest")
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.quantize(128).save(HERE / f"run-page-{scheme}.png", optimize=True)


def main() -> None:
    """Run the demo, serve its store, and take the pictures."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "FLOWSTORE_HOME": f"{folder}/home", "FLOWSTORE_USER": "anne"}
        command = [sys.executable, "-m", "flowstore"]
        subprocess.run([*command, "demo"], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        serve = [*command, "ui", "--no-browser"]
        with subprocess.Popen(serve, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
                take(browser, url, "light")
                take(browser, url, "dark")
                browser.close()
            server.terminate()


if __name__ == "__main__":
    main()
