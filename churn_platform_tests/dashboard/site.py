"""A dashboard that serves pages on localhost, and requests to it."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from lxml import html
from playwright.sync_api import Browser, BrowserContext

from churn_platform.dashboard.app import PAGES, create_app
from churn_platform.dashboard.config import DashboardConfig
from churn_platform.dashboard.page import Page
from churn_platform.dashboard.server import server_of
from churn_platform.local.ports import HOST
from churn_platform_tests.browsers import SECONDS
from churn_platform_tests.waiting import wait_until


@dataclass(frozen=True)
class Site:
    """A running dashboard.

    Attributes:
        url: its address.
        client: has the cookies of whoever logged in; does not follow redirects.
    """

    url: str
    client: httpx.Client

    def page(self, path: str, *, status: int = 200) -> "PageOf":
        """Return the page at a path, which has to be answered with this status."""
        answer = self.client.get(path)
        assert answer.status_code == status, answer.text
        return PageOf(html.fromstring(answer.text))

    def send(self, path: str, *, page: str, **form: str) -> httpx.Response:
        """Send a form as the page at another path does: with its token and its origin."""
        token = self.page(page).value("token")
        return self.client.post(path, data={"token": token, **form}, headers={"origin": self.url})


@dataclass(frozen=True)
class PageOf:
    """The content of a page."""

    root: html.HtmlElement

    @property
    def text(self) -> str:
        """The text of the page, with single spaces."""
        return " ".join(self.root.xpath("//main")[0].text_content().split())

    def figure(self, name: str) -> str:
        """Return the value of a figure by its name."""
        (found,) = self.root.xpath("//div[contains(@class, 'figure')][dt = $name]//span[@class = 'value']", name=name)
        return " ".join(found.text_content().split())

    def rows(self, caption: str) -> list[list[str]]:
        """Return the cells of a table by its caption, without the header."""
        (table,) = self.root.xpath("//table[normalize-space(caption) = $caption]", caption=caption)
        return [
            [" ".join(cell.text_content().split()) for cell in row.xpath("th | td")] for row in table.xpath("tbody/tr")
        ]

    def value(self, name: str) -> str:
        """Return the value of the first hidden field of a form with this name."""
        return str(self.root.xpath("(//input[@name = $name])[1]/@value", name=name)[0])

    def links(self) -> list[str]:
        """Return where the links of the page lead."""
        return [str(each) for each in self.root.xpath("//main//a/@href")]


@contextmanager
def window_of(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    """Open a window without cookies, in Berlin. Its pages open paths of the site."""
    with browser.new_context(base_url=site.url, locale="en-GB", timezone_id="Europe/Berlin") as window:
        window.set_default_timeout(SECONDS * 1000)
        yield window


@contextmanager
def serving(config: DashboardConfig, *, pages: Sequence[Page] = PAGES, port: int = 0) -> Iterator[Site]:
    """Serve a dashboard with its own pages or with others, on a free port unless one is given."""
    server = server_of(create_app(config, pages=pages), host=HOST, port=port)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, 30, "the dashboard listens")
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://{HOST}:{port}"
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        yield Site(url, client)
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()
