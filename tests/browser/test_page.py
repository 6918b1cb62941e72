"""The page in a real browser: sorts, filters, unfolds, explains; runs nobody's name."""

from __future__ import annotations

import pandas as pd
import pytest

from rstbench.reports.report import write_index, write_report
from rstbench.reports.tables import write

pytestmark = pytest.mark.browser
HEAD, BODY = ".board > table > thead th", ".board > table > tbody"
NAMES = (
    f"[...document.querySelectorAll('{BODY}')].filter(b => !b.hidden)"
    ".map(b => b.querySelector('th.model').textContent + ' ' + b.dataset.threat)"
)


@pytest.fixture(scope="module")
def folder(hand_run, tmp_path_factory):
    root = tmp_path_factory.mktemp("page") / "hand"
    evidence = hand_run(root)
    frames = write(evidence, root)
    assert write_report(evidence, frames, root) == []
    write_index([(evidence, frames, root)])
    return root


@pytest.fixture
def page(browser, folder):
    """The page just loaded; at the end nothing was said on the console, and nothing else was loaded."""
    path = folder / "index.html"
    browser.open(path)
    yield browser
    assert browser.said == []
    assert [link for link in browser.asked if not link.startswith("data:")] == [path.as_uri()]


def column(browser, place):
    """The texts of a column of the rows that are shown, top down."""
    return browser.eval(
        f"[...document.querySelectorAll('{BODY}')].filter(b => !b.hidden)"
        f".map(b => b.rows[0].cells[{place}].textContent.trim())"
    )


def heads(browser):
    return browser.eval(f"[...document.querySelectorAll('{HEAD}')].map(h => h.textContent.trim())")


def order(browser, place):
    return browser.eval(f"document.querySelectorAll('{HEAD}')[{place}].getAttribute('aria-sort')")


def test_it_shows_the_table(page, folder):
    board = pd.read_csv(folder / "leaderboard.csv")
    assert page.eval(NAMES) == [f"{m} {t}" for m, t in zip(board["model"], board["threat"], strict=True)]
    shown = column(page, heads(page).index("worst"))
    assert shown == ["" if pd.isna(worst) else f"{100 * worst:.1f}" for worst in board["worst"]]
    assert page.eval("document.querySelector('output').textContent") == "10 of 10 rows"
    assert page.eval("document.querySelectorAll('figure svg').length") == 8


def test_a_name_that_is_a_script_is_shown(page):
    assert "<script>alert(1)</script> Linf:1/10" in page.eval(NAMES)
    assert page.eval("document.scripts.length") == 2


@pytest.mark.parametrize("name", ["clean", "worst", "weights", "95 % interval"])
def test_a_click_sorts_and_another_turns_round(page, name):
    place = heads(page).index(name)
    button = f"{HEAD}:nth-child({place + 1}) button"

    def figures():
        cells = page.eval(
            f"[...document.querySelectorAll('{BODY}')].map(b => "
            f"b.rows[0].cells[{place}].dataset.v ?? b.rows[0].cells[{place}].textContent.trim())"
        )
        return [float(cell.replace(",", "")) if cell else None for cell in cells]

    found = {}
    for _ in range(2):
        page.click(button)
        values = figures()
        known = [value for value in values if value is not None]
        assert values[len(known) :] == [None] * (len(values) - len(known))  # what is empty stays last
        found[order(page, place)] = known
    assert found["ascending"] == sorted(found["ascending"])
    assert found["descending"] == sorted(found["descending"], reverse=True)
    assert found["ascending"] != found["descending"]


def test_the_keyboard_sorts(page):
    place = heads(page).index("model")
    page.eval(f"document.querySelector('{HEAD}:nth-child({place + 1}) button').focus()")
    page.press("Enter")
    assert order(page, place) == "ascending"
    names = column(page, place)
    assert names[-2:] == ["switch-rst", "switch-rst"]
    page.press(" ")
    assert order(page, place) == "descending"
    assert column(page, place)[:2] == ["switch-rst", "switch-rst"]
    page.press("Tab")
    page.press("Enter")
    assert order(page, place) is None
    assert order(page, place + 1) == "ascending"


def test_it_filters(page):
    page.click("input[name=text]")
    page.write("rst-0")
    assert {name.split()[0] for name in page.eval(NAMES)} == {"rst-0.1", "rst-0.2"}
    assert page.eval("document.querySelector('output').textContent") == "4 of 10 rows"
    choose(page, "threat", "Linf:1/5")
    assert len(page.eval(NAMES)) == 2
    choose(page, "kind", "switch")
    assert page.eval(NAMES) == []
    page.eval("document.querySelector('form').reset()")
    choose(page, "kind", "switch")
    assert page.eval(NAMES) == ["switch-rst Linf:1/10", "switch-rst Linf:1/5"]


def choose(page, name, value):
    page.eval(
        f"(() => {{ const s = document.querySelector('select[name={name}]'); s.value = '{value}';"
        " s.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def test_a_row_unfolds_to_its_evidence(page, folder):
    state = (
        "[document.querySelector('th.model button').ariaExpanded,"
        " document.querySelector('.evidence').checkVisibility()]"
    )
    assert page.eval(state) == ["false", False]
    page.click("th.model button")
    assert page.eval(state) == ["true", True]
    shown = page.eval("document.querySelector('.evidence').innerText")
    assert "digest" in shown
    assert page.eval("document.querySelector('.evidence summary').checkVisibility()") is False
    link = page.eval("document.querySelector('.evidence a[href^=results]').getAttribute('href')")
    assert (folder / link).exists()
    page.eval("document.querySelector('th.model button').focus()")
    page.press("Enter")
    assert page.eval(state) == ["false", False]
    # The evidence goes where its row goes.
    page.click("th.model button")
    first = page.eval(f"document.querySelector('{BODY}').rows[1].id")
    page.click(f"{HEAD}:nth-child(2) button")
    at = f"document.getElementById('{first}').previousElementSibling.querySelector('button').ariaExpanded"
    assert page.eval(at) == "true"


def test_flags_explain_themselves_to_pointer_and_keyboard(page):
    tip = "(t => t.checkVisibility() && t.textContent)(document.getElementById('tip'))"
    assert page.eval(tip) is False
    page.eval("document.querySelector('a.flag').focus()")
    text = page.eval(tip)
    assert len(text) > 20
    assert page.eval("document.querySelector('a.flag').getAttribute('aria-describedby')") == "tip"
    page.press("Escape")
    assert page.eval(tip) is False
    box = "document.querySelector('a.flag').getBoundingClientRect()"
    x, y = page.eval(f"[{box}.x + 3, {box}.y + 3]")
    page.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert page.eval(tip) == text
    page.send("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    assert page.eval(tip) is False


@pytest.mark.parametrize("width", [1280, 900, 380])
def test_the_page_never_scrolls_sideways(browser, folder, width):
    browser.open(folder / "index.html", width=width)
    browser.click("th.model button")
    assert browser.eval("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_the_head_stays_in_sight(page):
    last = f"document.querySelector('{BODY}:last-of-type')"
    page.eval(f"{last}.scrollIntoView()")
    top, row = page.eval(
        f"[document.querySelector('{HEAD}'), {last}].map(e => e.getBoundingClientRect().top)"
    )
    assert -1 <= top < row + 1


def test_without_scripts_it_is_a_table_that_reads(browser, folder):
    browser.open(folder / "index.html", scripts=False)
    # The protocol's own evaluation still works: it only looks.
    assert browser.eval("document.querySelector('.evidence summary').checkVisibility()") is True
    assert browser.eval("document.querySelector('.controls').checkVisibility()") is False
    assert browser.eval(f"document.querySelectorAll('{BODY}').length") == 10


def test_what_it_looks_like(browser, folder, tmp_path):
    """Pictures in the light, in the dark, on a phone, and of the page of pages, where pytest keeps files."""
    seen = {}
    views = {"light": {}, "dark": {"dark": True}, "narrow": {"width": 380}}
    for name, options in views.items():
        browser.open(folder / "index.html", **options)
        browser.click("th.model button")
        browser.shot(tmp_path / f"{name}.png")
        seen[name] = browser.eval("getComputedStyle(document.body).backgroundColor")
    browser.open(folder.parent / "index.html")
    assert browser.eval("document.querySelector('.info a').getAttribute('href')") == "hand/index.html"
    browser.shot(tmp_path / "index.png")
    assert seen["light"] == seen["narrow"] != seen["dark"]
    assert all(path.stat().st_size > 10_000 for path in tmp_path.glob("*.png"))
    assert len(list(tmp_path.glob("*.png"))) == 4
