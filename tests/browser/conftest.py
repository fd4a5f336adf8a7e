"""Headless Chromium for the tests marked ``browser``; says plainly when they do not run."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

VARIABLE = "RGALS_REQUIRE_BROWSER"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip

_N_DESELECTED = pytest.StashKey[int]()


def find_chromium() -> str | None:
    """Give the first Chromium on the search path."""
    return next((found for name in NAMES if (found := shutil.which(name)) is not None), None)


# Not for the session: as long as it runs there is an event loop in this thread, which other tests could trip over.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium; that it is missing is a failure here, as the tests that need it are deselected without it."""
    path = find_chromium()
    if path is None:
        pytest.fail(f"none of {', '.join(NAMES)} is on the search path, and {VARIABLE} is set")
    # The sandbox of Chromium does not start for the superuser.
    flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else list(FLAGS)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=flags)
        yield opened
        opened.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that need Chromium where there is none and none was promised."""
    config.stash[_N_DESELECTED] = 0
    if find_chromium() is not None or os.environ.get(VARIABLE):
        return
    without = [item for item in items if item.get_closest_marker("browser") is not None]
    if without:
        items[:] = [item for item in items if item.get_closest_marker("browser") is None]
        config.hook.pytest_deselected(items=without)
        config.stash[_N_DESELECTED] = len(without)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say at the end how many tests did not run for want of a browser."""
    n_deselected = config.stash.get(_N_DESELECTED, 0)
    if n_deselected:
        terminalreporter.section("browser", yellow=True)
        terminalreporter.line(
            f"{n_deselected} browser test(s) were NOT run: no Chromium on the search path, {VARIABLE} not set"
        )
