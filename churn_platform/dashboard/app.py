"""The dashboard's web application: routes, logins, and what a page shows when something is wrong."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote

import psycopg
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from churn_platform.dashboard.access import Access
from churn_platform.dashboard.config import DashboardConfig
from churn_platform.dashboard.databases import Databases, UnavailableError
from churn_platform.dashboard.exceptions import (
    BusyError,
    ConflictError,
    DashboardError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
)
from churn_platform.dashboard.page import Page, View, Visit
from churn_platform.dashboard.pages import (
    calls,
    customer,
    customers,
    effect,
    model,
    now,
    quality,
    segments,
    trends,
    what_if,
)
from churn_platform.dashboard.rendering import environment
from churn_platform.dashboard.security import MOST_FORM_BYTES, SecureHeaders, comes_from_here, is_same
from churn_platform.dashboard.sessions import Session

_log = logging.getLogger("churn.dashboard")

STATIC: Final = Path(__file__).parent / "static"
PLOTLY: Final = "plotly.min.js"
RETRY_SECONDS: Final = 3
"""After this time a page that could not be shown tries again."""
# Browsers keep files and ask whether they have changed, Plotly's 4.7 MB only once a day.
CHECKED: Final = "no-cache"
FOR_A_DAY: Final = "max-age=86400"
_REASONS: Final[Mapping[int, tuple[str, str]]] = {
    400: ("Bad request", "The address or the form holds characters that cannot be read."),
    404: ("Not found", "There is no page {path}."),
    405: ("This is not possible", "{path} does not answer {method}. Open a page of the navigation."),
    413: ("Too long", f"The form is longer than {MOST_FORM_BYTES // 1024} KB. Nothing was changed."),
}

PAGES: Final[Sequence[Page]] = (
    *now.PAGES,
    *customers.PAGES,
    *customer.PAGES,
    *what_if.PAGES,
    *calls.PAGES,
    *effect.PAGES,
    *segments.PAGES,
    *trends.PAGES,
    *model.PAGES,
    *quality.PAGES,
)
"""In the order of the navigation."""


def create_app(config: DashboardConfig, *, pages: Sequence[Page] = PAGES) -> ASGIApp:
    """Return the application.

    Args:
        config: what it needs to know.
        pages: in the order of the navigation.

    Raises:
        DashboardError: the file of users is there and cannot be read.
    """
    dashboard = _Dashboard(config, pages)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        dashboard.databases.close()

    web = Starlette(
        routes=[
            Route("/", lambda _: RedirectResponse(pages[0].path)),
            Route("/healthz", _health),
            # Pages are not compressed: the length of a compressed page tells somebody on the network, who can make the
            # browser ask for it with texts of his choice, what else is in it, such as the token of forms (BREACH).
            Mount("/static", _Static(), middleware=[Middleware(GZipMiddleware, minimum_size=2_000, compresslevel=4)]),
            Route("/login", dashboard.login, methods=["GET", "POST"]),
            Route("/logout", dashboard.logout, methods=["POST"]),
            *(Route(page.path, dashboard.endpoint(page), methods=[*_methods(page)]) for page in pages),
        ],
        # A name that is not ours leads to this machine if somebody's DNS says so, to let a foreign page read ours.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[*config.hosts], www_redirect=False)],
        exception_handlers={HTTPException: dashboard.http_error, Exception: dashboard.http_error},
        lifespan=lifespan,
    )
    return SecureHeaders(web)  # around everything, so that no answer lacks them


async def _health(_: Request) -> Response:
    return PlainTextResponse("ok")


class _Static(StaticFiles):
    """The dashboard's own files, and Plotly's JavaScript, which its Python package contains."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)
        self._plotly = StaticFiles(packages=[("plotly", "package_data")])

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, or that the browser has its latest version."""
        of_plotly = path == PLOTLY
        answer = await (self._plotly.get_response(path, scope) if of_plotly else super().get_response(path, scope))
        answer.headers["cache-control"] = FOR_A_DAY if of_plotly else CHECKED
        return answer


def _methods(page: Page) -> list[str]:
    return [*(["GET"] if page.read is not None else []), *(["POST"] if page.change is not None else [])]


class _Dashboard:
    """Answers requests."""

    def __init__(self, config: DashboardConfig, pages: Sequence[Page]) -> None:
        self.databases = Databases(config)
        self._config = config
        self._navigation = [page for page in pages if page.label]
        self._access = Access(config)
        self._templates = environment()

    def endpoint(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        """Return the function that Starlette calls for a page."""

        async def answer(request: Request) -> Response:
            form = await _form_of(request) if request.method == "POST" else {}
            return await run_in_threadpool(self._answer, page, request, form)

        return answer

    # Pages

    def _answer(self, page: Page, request: Request, form: Mapping[str, str]) -> Response:
        try:
            session = self._access.session_of(request)
        except DashboardError as error:
            return self._nobody_can_log_in(request, error)
        if session is None and not self._access.has_login:
            address = request.client.host if request.client is not None else "a socket"
            text = (
                f"Users reach this dashboard through a proxy that names them. This request comes from {address}, which "
                f"is not the proxy of DASHBOARD_PROXY, or it does not have exactly one header "
                f"{self._config.proxy_header} with the name of a user."
            )
            return self._problem(request, None, 403, "Not allowed", text)
        if session is None:
            return RedirectResponse(f"/login?next={quote(_place_of(request), safe='')}", status_code=303)
        if any("\0" in each for each in (*request.query_params.values(), *form.values(), request.url.path)):
            return self._problem(request, session, 400, *_REASONS[400])  # PostgreSQL has no such character
        if request.method == "POST" and not (self._is_ours(request) and is_same(form.get("token", ""), session.token)):
            text = "The form is too old, or was sent by another site. Open the page again, and repeat the change."
            return self._problem(request, session, 403, "Nothing was changed", text)
        visit = Visit(session.user, request.query_params, form, request.path_params, self._config, self.databases)
        try:
            if request.method == "POST" and page.change is not None:
                return self._answer_of(page.change(visit), request, session)
            return self._read(page, request, session, visit)
        except NotFoundError as error:
            return self._problem(request, session, 404, "Not found", str(error))
        except ForbiddenError as error:
            return self._problem(request, session, 403, "Not allowed", str(error))
        except ConflictError as error:
            return self._problem(request, session, 409, "Nothing was changed", str(error), back=error.back)
        except InvalidInputError as error:
            return self._problem(request, session, 422, "Nothing was changed", str(error), back=error.back)
        except BusyError as error:
            return self._problem(request, session, 503, "Too much at once", str(error))
        except UnavailableError as error:
            _log.warning("%s: PostgreSQL does not answer (%s).", request.url.path, error)
            text = "The database does not answer."
            return self._problem(request, session, 503, "No connection to the database", text, refresh=RETRY_SECONDS)
        except psycopg.errors.QueryCanceled:
            _log.warning("%s: a query took longer than %d s.", request.url.path, page.seconds)
            text = f"A query took longer than {page.seconds} s and was canceled. Choose a smaller part of the data."
            return self._problem(request, session, 504, "This takes too long", text)
        except psycopg.Error as error:
            _log.exception("%s failed.", request.url.path)
            text = f"The database refused a query ({type(error).__name__}). The log of the dashboard has the details."
            return self._problem(request, session, 500, "This page does not work", text)

    def _read(self, page: Page, request: Request, session: Session, visit: Visit) -> Response:
        if page.read is None:
            raise NotFoundError(f"There is no page {request.url.path}.")
        with self.databases.reading(seconds=page.seconds) as connection:
            view = page.read(visit, connection)
        return self._answer_of(view, request, session)

    def _answer_of(self, view: View | Response, request: Request, session: Session) -> Response:
        return view if isinstance(view, Response) else self._render(request, session, view)

    def _problem(
        self,
        request: Request,
        session: Session | None,
        status: int,
        title: str,
        text: str,
        *,
        refresh: int | None = None,
        back: str = "",
    ) -> Response:
        view = View("problem.html.j2", title, {"text": text, "back": back}, refresh=refresh, status=status)
        return self._render(request, session, view)

    def _render(self, request: Request, session: Session | None, view: View) -> Response:
        html = self._templates.get_template(view.template).render(
            {
                "title": view.title,
                "refresh": view.refresh,
                "navigation": self._navigation,
                "path": request.url.path,
                "user": session.user if session is not None else None,
                "token": session.token if session is not None else "",
                "is_open": self._config.is_open,
                "can_log_out": session is not None and session.can_be_ended,
                "dagster_url": self._config.dagster_url,
                "currency": self._config.schema.currency,
                **view.values,
            }
        )
        return HTMLResponse(html, status_code=view.status)

    async def http_error(self, request: Request, error: Exception) -> Response:
        """Show that there is no such page, that it is not called like this, or that it has failed."""
        return await run_in_threadpool(self._http_error, request, error)

    def _http_error(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        title, text = _REASONS.get(status, ("This page does not work", "The log of the dashboard has the details."))
        try:
            session = self._access.session_of(request)
        except DashboardError:
            session = None  # the page is shown without the navigation
        answer = self._problem(
            request, session, status, title, text.format(path=request.url.path, method=request.method)
        )
        if isinstance(error, HTTPException):
            answer.headers.update(error.headers or {})  # such as the methods that there are
        return answer

    def _is_ours(self, request: Request) -> bool:
        return comes_from_here(request.headers, origin=self._config.origin)

    def _nobody_can_log_in(self, request: Request, error: DashboardError) -> Response:
        _log.error("%s", error)
        text = "The file of users cannot be read. 'churn dashboard add-user NAME' creates it; the log has the details."
        return self._problem(request, None, 503, "Nobody can log in", text)

    # Logins

    async def login(self, request: Request) -> Response:
        """Show the form to log in, or log somebody in."""
        if not self._access.has_login:
            return RedirectResponse("/", status_code=303)
        if request.method == "GET":
            place = _own_place(request.query_params.get("next", ""))
            return self._login_form(request, "", status=200, place=place)
        form = await _form_of(request)
        return await run_in_threadpool(self._log_in, request, form)

    def _log_in(self, request: Request, form: Mapping[str, str]) -> Response:
        place = _own_place(form.get("next", ""))
        if not self._is_ours(request):
            return self._login_form(request, "The form was sent by another site.", status=403, place=place)
        address = request.client.host if request.client is not None else ""
        try:
            result = self._access.log_in(form.get("name", ""), form.get("password", ""), address=address)
        except DashboardError as error:
            return self._nobody_can_log_in(request, error)
        if isinstance(result, float):
            if result == 0:
                text = "The name or the password is wrong."
                return self._login_form(request, text, status=401, place=place)
            text = f"Too many attempts. Try again in {result:.0f} seconds."
            answer = self._login_form(request, text, status=429, place=place)
            answer.headers["retry-after"] = f"{result:.0f}"
            return answer
        self._access.log_out(request)  # of two sessions of one browser only the new one is left
        redirect = RedirectResponse(place, status_code=303)
        redirect.set_cookie(
            self._access.cookie,
            result,
            max_age=round(self._config.session.total_seconds()),
            httponly=True,
            samesite="lax",
            secure=self._config.is_encrypted,
        )
        return redirect

    def _login_form(self, request: Request, problem: str, *, status: int, place: str) -> Response:
        values = {"problem": problem, "next": place}
        return self._render(request, None, View("login.html.j2", "Log in", values, status=status))

    async def logout(self, request: Request) -> Response:
        """End the session."""
        if not self._is_ours(request):
            return await run_in_threadpool(
                self._problem, request, None, 403, "Nothing was changed", "The form was sent by another site."
            )
        self._access.log_out(request)
        answer = RedirectResponse("/login", status_code=303)
        answer.delete_cookie(self._access.cookie, secure=self._config.is_encrypted, httponly=True, samesite="lax")
        return answer


async def _form_of(request: Request) -> dict[str, str]:
    """Return what a form has sent. Of two values of one name the last counts.

    Raises:
        HTTPException: it is too long, or not a form.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_FORM_BYTES:
            raise HTTPException(413)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body)))
    except ValueError as error:
        raise HTTPException(400) from error


def _place_of(request: Request) -> str:
    """Return path and parameters of a page; those of the navigation's first page for a form."""
    if request.method != "GET":
        return "/"
    return f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path


def _own_place(place: str) -> str:
    """Return a place on this server; its first page if the text leads elsewhere.

    Browsers read a backslash as a slash and leave out tabs and line breaks, so "/\\host" also leads to a host.
    """
    leads_elsewhere = place.startswith("//") or "\\" in place or not place.isprintable()
    return place if place.startswith("/") and not leads_elsewhere else "/"
