"""The report page as a browser shows it: nothing cut, nothing overlapping, nothing fetched, readable in the dark."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from rgals.evaluation.page import write_page
from tests.evaluation.page_reports import REPORTS

pytestmark = pytest.mark.browser

LOOK = (Path(__file__).parent / "look.js").read_text()
WIDTHS = (400, 1280)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    for name, make in REPORTS.items():
        write_page(make(), folder / f"{name}.html")
    return folder


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = browser.new_context(viewport={"width": 1280, "height": 900})
    yield opened
    opened.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    opened = context.new_page()
    yield opened
    opened.close()


@pytest.mark.parametrize("name", REPORTS)
def test_nothing_is_cut_overlaps_or_is_hard_to_read_at_any_width(page: Page, pages: Path, name: str) -> None:
    page.goto((pages / f"{name}.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate(LOOK) == [], f"{scheme}, {width} pixels"


def test_the_page_fits_at_every_width_between(browser: Browser, pages: Path) -> None:
    page = browser.new_page()
    page.goto((pages / "twelve.html").as_uri())
    for width in (320, 600, 900, 980, 981, 1040, 1120, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_nothing_is_fetched_and_the_console_stays_empty(page: Page, pages: Path) -> None:
    requests: list[str] = []
    messages: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    addresses = [(pages / f"{name}.html").as_uri() for name in REPORTS]
    for address in addresses:
        page.goto(address, wait_until="load")
    assert [address for address in requests if not address.startswith("data:")] == addresses
    assert messages == []


def test_names_that_are_markup_are_shown_and_not_run(page: Page, pages: Path) -> None:
    page.goto((pages / "hostile.html").as_uri())
    assert "owned" not in page.title()
    assert page.evaluate("document.scripts.length") == 0
    assert page.locator("tbody th").first.inner_text().startswith("<script>document.title='owned'</script>")


def test_dark_is_dark_and_light_is_light(browser: Browser, pages: Path) -> None:
    papers = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto((pages / "bare.html").as_uri())
        papers[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.close()
    assert papers == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 24, 29)"}


def test_every_section_is_reached_from_the_list_by_keyboard(page: Page, pages: Path) -> None:
    page.goto((pages / "full.html").as_uri())
    anchors = page.eval_on_selector_all("nav a", "links => links.map(link => link.getAttribute('href').slice(1))")
    assert anchors == page.eval_on_selector_all("main > section", "sections => sections.map(one => one.id)")
    for _ in range(1 + len(anchors)):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.url.endswith(f"#{anchors[-1]}")
    # The next stop after the list is the first of the details.
    page.locator("details summary").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator("details").nth(1).get_attribute("open") is not None


def test_narrow_tables_are_still_tables_to_a_screen_reader(page: Page, pages: Path) -> None:
    page.set_viewport_size({"width": 400, "height": 900})
    page.goto((pages / "bare-two.html").as_uri())
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    roles = [node["role"]["value"] for node in tree if not node["ignored"]]
    names = [node["name"]["value"] for node in tree if not node["ignored"] and node["role"]["value"] == "table"]
    assert names[:1] == ["Models by NDCG@20 on the test part, the best first"]
    n_rows = page.locator("table:visible tbody tr").count()
    assert roles.count("table") == page.locator("table:visible").count()
    assert roles.count("rowheader") == n_rows
    assert roles.count("columnheader") == page.locator("table:visible thead th").count()
    assert roles.count("row") == n_rows + page.locator("table:visible thead tr").count()
    assert roles.count("cell") == page.locator("table:visible td").count()


def test_charts_say_what_they_show(page: Page, pages: Path) -> None:
    page.goto((pages / "full.html").as_uri())
    chart = page.get_by_role("img", name="Quality against training time")
    assert chart.count() == 1
    assert "softmax-cosine: 0.1187" in (chart.get_attribute("aria-label") or "")


def test_a_printed_page_shows_what_is_folded_away(page: Page, pages: Path) -> None:
    page.goto((pages / "full.html").as_uri())
    folded = page.locator("#metrics details").nth(1).locator("table")
    assert not folded.is_visible()
    page.emulate_media(media="print")
    assert folded.is_visible()
