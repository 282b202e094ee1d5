"""The site in a real browser: every page opens without an error, and the search finds things."""

import functools
import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from tests.test_site import site  # noqa: F401

pytestmark = pytest.mark.heavy
FLAGS = [
    "--headless",
    "--hide-scrollbars",
    "--no-sandbox",  # it is our own site
    "--disable-gpu",
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-quic"),
]
SIZES = {"desktop": (1400, 1000, 1), "phone": (390, 844, 2)}


class Browser:
    """Chromium, through what chromedriver takes: the WebDriver protocol, as JSON over HTTP."""

    def __init__(self, port, profile):
        self.url = f"http://127.0.0.1:{port}"
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"], "binary": CHROMIUM}
        always = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self.post("/session", {"capabilities": {"alwaysMatch": always}})
        self.url += f"/session/{made['sessionId']}"

    def post(self, path, body=None):
        """Sends a command, and returns its value."""
        data = json.dumps(body or {}).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data)) as answer:
            return json.load(answer)["value"]

    def open(self, url):
        """Opens a page, and waits until it is there."""
        self.post("/url", {"url": url})

    def run(self, script):
        """Runs JavaScript in the page, and returns what it returns."""
        return self.post("/execute/sync", {"script": script, "args": []})

    def wait(self, script, seconds=10.0):
        """Runs a script until what it returns is true, and returns that."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := self.run(script):
                return found
            time.sleep(0.1)
        raise AssertionError(f"not within {seconds} s: {script}")

    def size(self, name):
        """Shows pages as on a desktop or on a phone."""
        width, height, scale = SIZES[name]
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale}
        params = metrics | {"mobile": name == "phone"}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": params}
        self.post("/goog/cdp/execute", command)

    def dark(self, value):
        """Prefers dark pages, or light ones."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if value else "light"}
        command = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": [feature]}}
        self.post("/goog/cdp/execute", command)

    def errors(self):
        """Returns what the console has had of warnings and errors since it was last asked."""
        logged = self.post("/se/log", {"type": "browser"})
        return [entry["message"] for entry in logged if entry["level"] in ("WARNING", "SEVERE")]

    def picture(self, path):
        """Saves what is seen."""
        import base64

        request = urllib.request.Request(self.url + "/screenshot")
        with urllib.request.urlopen(request) as answer:
            Path(path).write_bytes(base64.b64decode(json.load(answer)["value"]))

    def search(self, words):
        """Types into the search field, and returns the addresses of what is found."""
        self.run(
            "document.querySelector('label[for=__search]').click();"
            "const box = document.querySelector('input[name=query]');"
            f"box.focus(); box.value = {json.dumps(words)};"
            "box.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true}));"
            "box.dispatchEvent(new Event('input', {bubbles: true}));"
        )
        self.wait("return document.querySelectorAll('.md-search-result__link').length")
        return self.run(
            "return [...document.querySelectorAll('.md-search-result__link')].map(a => a.href)"
        )


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Starts Chromium."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium and chromedriver: Debian's packages have these names")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        started = Browser(port, tmp_path_factory.mktemp("profile"))
        yield started
        urllib.request.urlopen(urllib.request.Request(started.url, method="DELETE")).close()
    finally:
        driver.terminate()
        driver.wait()


@pytest.fixture(scope="module")
def served(site):  # noqa: F811
    """Serves the site on this machine, and returns its address."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("size", SIZES)
def test_every_page_opens_without_errors(size, site, served, browser):  # noqa: F811
    browser.size(size)
    pictures = os.environ.get("SITE_PICTURES")  # a folder, to look at them
    for path in sorted(site.rglob("*.html")):
        page = str(path.relative_to(site))
        browser.open(f"{served}/{page}")
        assert not browser.errors(), page
        broken = browser.run(
            "document.querySelectorAll('img').forEach(i => i.loading = 'eager');"
            "const seen = i => i.decode().then(() => '', () => i.src);"
            "return Promise.all([...document.images].map(seen))"
            ".then(all => all.filter(Boolean))"
        )
        assert not broken, page
        wide = browser.run(
            "const width = document.documentElement.clientWidth;"
            "return document.documentElement.scrollWidth > width + 1"
        )
        assert not wide, f"{page} scrolls sideways on a {size}"
        outside = browser.run(
            "return performance.getEntriesByType('resource').map(e => e.name)"
            ".filter(name => new URL(name).host !== location.host)"
        )
        assert not outside, page
        if pictures:
            browser.picture(Path(pictures) / f"{size}-{page.replace('/', '-')}.png")


@pytest.mark.parametrize("where", ["served", "from the disk"])
def test_search_finds(where, site, served, browser):  # noqa: F811
    browser.size("desktop")
    browser.open(f"{served}/index.html" if where == "served" else f"file://{site}/index.html")
    found = browser.search("Lookahead")
    assert any("api/optimizers.html" in link for link in found), found
    assert not browser.errors()


def test_dark_mode(served, browser):
    browser.size("desktop")
    seen = []
    for dark in (False, True):
        browser.dark(dark)
        browser.open(f"{served}/index.html")
        seen.append(browser.wait("return document.body.getAttribute('data-md-color-scheme')"))
    assert seen == ["default", "slate"]
