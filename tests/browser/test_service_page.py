"""The service's page in Chromium, as a person would use it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect

from rgals.artifact.model import Model
from rgals.artifact.registry_reports import attach_report
from rgals.evaluation.page import write_page
from rgals.evaluation.report import write_report
from services.recommender.app import create_app
from services.recommender.settings import Settings
from tests.artifact.model_factory import Parts
from tests.evaluation.page_reports import full_report
from tests.services.recommender.harness import publish_model, wait_until, write_keys

pytestmark = pytest.mark.browser
WIDTHS = (1280, 400)


class Server(uvicorn.Server):
    """A service in a thread of this process, on a free port."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(uvicorn.Config(create_app(settings), port=0, log_level="warning", ws="none"))
        self._thread = threading.Thread(target=self.run)

    def __enter__(self) -> str:
        self._thread.start()
        wait_until(lambda: self.started)
        url = f"http://127.0.0.1:{self.servers[0].sockets[0].getsockname()[1]}"
        wait_until(lambda: httpx2.get(url + "/readyz").status_code == 200)
        return url

    def __exit__(self, *_: object) -> None:
        self.should_exit = True
        self._thread.join(timeout=30)


def model(folder: Path, seed: int) -> Model:
    return Parts(40, 60, 3, seed=seed, kind="int64", density=0.2).write(folder)


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    first = model(folder / "m1", 1)
    publish_model(folder / "registry", first)
    report = full_report()
    report.models[0].options["factor_sha256"] = first.factor_checksum
    write_report(report, folder / "report.json")
    write_page(report, folder / "report.html")
    attach_report(folder / "registry", first, folder / "report.json")
    return folder / "registry"


@pytest.fixture(scope="module")
def url(registry) -> Iterator[str]:
    with Server(Settings(registry=str(registry), poll_s=0.2)) as url:
        yield url


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """Open the page; whatever the console complains about is a failure, as is any address outside the service."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda request: complaints.append(request.url) if not request.url.startswith((url, "blob:", "data:")) else None,
    )
    page.goto(url)
    expect(page.locator("#health")).to_have_text("ready")
    yield page
    context.close()
    assert not complaints


def choose_user(page: Page, user: str) -> None:
    page.get_by_label("User", exact=True).fill(user)
    page.get_by_role("button", name=f"Take {user}", exact=True).click()


def test_the_header_tells_model_and_ndcg_against_softmax(page):
    expect(page.locator("#version")).to_have_text("v00001")
    expect(page.locator("#trained")).to_contain_text("rg2, 3 factors, 40 users, 60 items")
    expect(page.locator("#ndcg-name")).to_contain_text("NDCG@20")
    expect(page.locator("#ndcg")).to_contain_text("softmax 0.14")


def test_a_user_is_found_and_gets_a_list_with_reasons(page):
    choose_user(page, "25")
    expect(page.locator("#list li")).to_have_count(10)
    expect(page.locator("#list-note")).to_contain_text("by the factors learned")
    page.locator("#list li").first.get_by_role("button", name="Why").click()
    expect(page.locator("#why-table tr").first).to_be_visible()
    values = [float(text) for text in page.locator("#why-table td:nth-child(2)").all_inner_texts()]
    assert sum(values) == pytest.approx(float(page.locator("#why-score").inner_text()), abs=0.005)
    page.locator("#list li").first.get_by_role("button", name="Items similar").click()
    expect(page.locator("#similar-list li").first).to_be_visible()


def test_a_history_built_by_clicking_changes_the_list_at_once(page):
    page.get_by_label("Add an item to the history").fill("15")
    page.get_by_role("button", name="Take 15", exact=True).click()
    expect(page.locator("#list-note")).to_contain_text("solved just now from the history")
    first = page.locator("#list").inner_text()
    page.locator("#list li").first.get_by_role("button", name="to the history").click()
    expect(page.locator("#history li")).to_have_count(2)
    expect(page.locator("#list")).not_to_have_text(first)
    page.get_by_role("button", name="Clear the history").click()
    expect(page.locator("#list li")).to_have_count(0)
    expect(page.locator("#list-note")).to_contain_text("Choose a user")


def test_the_keyboard_is_enough(page):
    page.keyboard.press("Tab")
    while page.evaluate("document.activeElement.id") != "user":
        page.keyboard.press("Tab")
    page.keyboard.type("35")
    page.keyboard.press("Enter")
    expect(page.locator("#chosen-id")).to_have_text("35")
    expect(page.locator("#list li")).to_have_count(10)
    while not page.evaluate("document.activeElement.textContent === 'why'"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#why")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_length_and_the_known_items_can_be_chosen(page):
    choose_user(page, "25")
    page.get_by_label("Items", exact=True).fill("3")
    page.get_by_label("Items", exact=True).blur()
    expect(page.locator("#list li")).to_have_count(3)
    before = page.locator("#list").inner_text()
    page.get_by_label("without those known already").uncheck()
    expect(page.locator("#list")).not_to_have_text(before)


def test_the_report_opens(page):
    with page.expect_popup() as popup:
        page.get_by_role("button", name="Open the report").click()
    expect(popup.value.locator("h1").first).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_at_any_width(browser, url, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(url)
    expect(page.locator("#health")).to_have_text("ready")
    choose_user(page, "25")
    expect(page.locator("#list li")).to_have_count(10)
    page.locator("#list li").first.get_by_role("button", name="Why").click()
    page.locator("#list li").first.get_by_role("button", name="Items similar").click()
    expect(page.locator("#similar-list li").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    cut = page.evaluate(
        """[...document.querySelectorAll('section *, header *')].filter((each) => {
            const box = each.getBoundingClientRect();
            return box.width && (box.left < -1 || box.right > document.documentElement.clientWidth + 1);
        }).map((each) => each.outerHTML.slice(0, 80))"""
    )
    assert cut == []
    context.close()


def test_with_keys_the_page_asks_for_one_and_keeps_it_out_of_the_address(browser, registry, tmp_path):
    keys = write_keys(tmp_path / "keys", me="read")
    with Server(Settings(registry=str(registry), api_keys_file=tmp_path / "keys")) as url:
        context = browser.new_context()
        page = context.new_page()
        addresses: list[str] = []
        page.on("request", lambda request: addresses.append(request.url))
        page.goto(url)
        expect(page.get_by_role("alert")).to_contain_text("A valid API key is needed")
        page.get_by_label("API key").fill(keys["me"])
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#trained")).to_contain_text("rg2")
        choose_user(page, "25")
        expect(page.locator("#list li")).to_have_count(10)
        expect(page.get_by_role("alert")).to_be_hidden()
        assert all(keys["me"] not in address for address in addresses)
        context.close()


def test_a_swap_underneath_is_shown_and_the_list_is_that_of_the_new_model(browser, tmp_path):
    publish_model(tmp_path / "registry", model(tmp_path / "m1", 1))
    with Server(Settings(registry=str(tmp_path / "registry"), poll_s=0.1)) as url:
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        expect(page.locator("#version")).to_have_text("v00001")
        choose_user(page, "25")
        expect(page.locator("#list li")).to_have_count(10)
        before = page.locator("#list").inner_text()
        publish_model(tmp_path / "registry", model(tmp_path / "m2", 2))
        expect(page.locator("#version")).to_have_text("v00002", timeout=15_000)
        expect(page.locator("#list")).not_to_have_text(before)
        expect(page.locator("#list-note")).to_contain_text("v00002")
        context.close()


def test_a_service_that_cannot_be_reached_is_told(browser, registry):
    context = browser.new_context()
    page = context.new_page()
    with Server(Settings(registry=str(registry))) as url:
        page.goto(url)
        expect(page.locator("#health")).to_have_text("ready")
    page.get_by_label("User", exact=True).fill("2")
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    expect(page.locator("#health")).to_have_text("cannot be reached", timeout=10_000)
    context.close()
