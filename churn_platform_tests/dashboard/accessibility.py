"""What each page has to be: free of barriers that axe finds, in both themes and on a phone; no error in its scripts."""

from collections.abc import Mapping
from typing import Final

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import ConsoleMessage, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

WIDE: Final = 1280
PHONE: Final = 375
HEIGHT: Final = 800
_SERIOUS: Final = ("serious", "critical")
_AXE: Final = Axe()
# A theme changes only colors, and a narrow window only what scrolls, so their runs need only the rules about these.
_ALL_RULES: Final[Mapping[str, object]] = {"resultTypes": ["violations"]}
_COLORS: Final[Mapping[str, object]] = {**_ALL_RULES, "runOnly": ["color-contrast"]}
_SCROLLING: Final[Mapping[str, object]] = {**_ALL_RULES, "runOnly": ["scrollable-region-focusable"]}

_FITS: Final = "() => document.documentElement.scrollWidth <= document.documentElement.clientWidth"
_RESIZE_MS: Final = 3_000
"""Charts follow the width of the window within a fraction of a second."""
# The outermost elements that are wider than the window.
_TOO_WIDE: Final = """() => {
    const isWide = (each) => each.getBoundingClientRect().right > document.documentElement.clientWidth + 1;
    return [...document.querySelectorAll("body *")]
        .filter((each) => isWide(each) && !isWide(each.parentElement))
        .map((each) => each.outerHTML.slice(0, 120));
}"""
# The Tab key goes on from where the focus was last, even if that element is gone.
_GO_TO_TOP: Final = """() => {
    const start = document.createElement("span");
    start.tabIndex = -1;
    document.body.prepend(start);
    start.focus();
    start.remove();
}"""
_FOCUSED: Final = """() => {
    const found = document.activeElement;
    const style = getComputedStyle(found);
    const box = found.getBoundingClientRect();
    const name = found.getAttribute("aria-label") || found.labels?.[0]?.textContent || found.textContent;
    return {
        name: `${found.localName} ${(name ?? "").trim().replace(/\\s+/g, " ").slice(0, 60)}`.trim(),
        has_ring: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
        is_visible: box.width > 0 && box.height > 0 && box.right > 0,
    };
}"""


def open_without_errors(page: Page, path: str) -> list[str]:
    """Open a path of the site, and return the list to which errors of the page's scripts will be added.

    A test asserts at its end that the list is empty.
    """
    errors: list[str] = []

    def remember(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(f"{message.text} ({message.location['url']})")

    page.on("console", remember)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path)
    return errors


def draw_charts(page: Page) -> None:
    """Scroll to each chart of an open page, and wait until it is drawn."""
    for chart in page.locator(".plot").all():
        chart.scroll_into_view_if_needed()
        expect(chart).to_have_attribute("data-drawn", "")


def serious_findings(page: Page) -> list[str]:
    """Return axe's serious and critical findings on an open page, as it is now."""
    return _findings(page, _ALL_RULES)


def barriers(page: Page) -> list[str]:
    """Return what keeps somebody from using an open page, each with the theme and the width at which it was found.

    These are axe's serious and critical findings, and elements that make the page scroll sideways. The page is left in
    the light theme and 1280 pixels wide.
    """
    page.emulate_media(color_scheme="light", reduced_motion="reduce")  # no color is measured while it changes
    page.set_viewport_size({"width": PHONE, "height": HEIGHT})
    found = [f"{PHONE} px: {each}" for each in [*_too_wide(page), *_findings(page, _SCROLLING)]]
    page.set_viewport_size({"width": WIDE, "height": HEIGHT})
    found += [f"{WIDE} px: {each}" for each in [*_too_wide(page), *serious_findings(page)]]
    page.emulate_media(color_scheme="dark")
    found += [f"dark: {each}" for each in _findings(page, _COLORS)]
    page.emulate_media(color_scheme="light")
    return found


def unreachable(page: Page) -> list[str]:
    """Return links, buttons and fields that the Tab key does not reach, or where one cannot see that they are reached.

    It starts at the top of an open page. The first element has to be the link that skips the navigation.
    """
    page.evaluate(_GO_TO_TOP)
    expected = page.locator("a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']")
    wanted = sum(each.is_visible() for each in expected.all())
    problems, seen = [], []
    for _ in range(wanted):
        page.keyboard.press("Tab")
        focused = page.evaluate(_FOCUSED)
        seen.append(focused["name"])
        if not (focused["has_ring"] and focused["is_visible"]):
            problems.append(f"{focused['name']}: one cannot see that it has the focus")
    if seen and not seen[0].startswith("a Skip"):
        problems.append(f"the first element is {seen[0]!r}, not the link that skips the navigation")
    if "body" in " ".join(seen).split():
        problems.append(f"the Tab key reaches only {seen}, of {wanted} elements")
    return problems


def _too_wide(page: Page) -> list[str]:
    try:
        page.wait_for_function(_FITS, timeout=_RESIZE_MS)
    except PlaywrightTimeoutError:
        return [f"wider than the window: {each}" for each in page.evaluate(_TOO_WIDE)]
    return []


def _findings(page: Page, options: Mapping[str, object]) -> list[str]:
    answer = _AXE.run(page, options=dict(options))
    return [
        f"{rule['help']} ({rule['id']}): {', '.join(str(node['html'])[:120] for node in rule['nodes'])}"
        for rule in answer.response["violations"]
        if rule["impact"] in _SERIOUS
    ]
