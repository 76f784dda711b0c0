"""The dashboard's web application: routes, logins, and what a page shows when something is wrong."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit

import psycopg
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from churn_platform.dashboard.access import Access
from churn_platform.dashboard.config import DashboardConfig
from churn_platform.dashboard.databases import QUERY_SECONDS, Databases, UnavailableError
from churn_platform.dashboard.exceptions import (
    ConflictError,
    DashboardError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
)
from churn_platform.dashboard.page import Page, View, Visit
from churn_platform.dashboard.pages import calls, effect, now
from churn_platform.dashboard.rendering import environment
from churn_platform.dashboard.security import MOST_FORM_BYTES, SecureHeaders, comes_from_here
from churn_platform.dashboard.sessions import COOKIE, Session

_log = logging.getLogger("churn.dashboard")

STATIC: Final = Path(__file__).parent / "static"
PLOTLY: Final = "plotly.min.js"
RETRY_SECONDS: Final = 3
"""After this time a page that could not be shown tries again."""
DAY_SECONDS: Final = 86_400

PAGES: Final[Sequence[Page]] = (*now.PAGES, *calls.PAGES, *effect.PAGES)
"""In the order of the navigation."""


def create_app(config: DashboardConfig, *, pages: Sequence[Page] = PAGES) -> Starlette:
    """Return the application.

    Args:
        config: what it needs to know.
        pages: in the order of the navigation.

    Raises:
        DashboardError: the file of users cannot be read.
    """
    dashboard = _Dashboard(config, pages)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        dashboard.databases.close()

    return Starlette(
        routes=[
            Route("/", lambda _: RedirectResponse(pages[0].path)),
            Route("/healthz", lambda _: PlainTextResponse("ok")),
            Route(f"/static/{PLOTLY}", dashboard.plotly),
            Mount("/static", StaticFiles(directory=STATIC)),
            Route("/login", dashboard.login, methods=["GET", "POST"]),
            Route("/logout", dashboard.logout, methods=["POST"]),
            *(Route(page.path, dashboard.endpoint(page), methods=[*_methods(page)]) for page in pages),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=[*config.hosts], www_redirect=False),
            Middleware(SecureHeaders),
            Middleware(GZipMiddleware, minimum_size=2_000, compresslevel=4),
        ],
        exception_handlers={HTTPException: dashboard.http_error},
        lifespan=lifespan,
    )


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
            return self._problem(request, None, 503, "Nobody can log in", str(error))
        if session is None:
            return RedirectResponse(f"/login?next={quote(_place_of(request), safe='')}", status_code=303)
        if request.method == "POST" and not (comes_from_here(request.headers) and form.get("token") == session.token):
            text = "The form is too old, or was sent by another site. Open the page again, and repeat the change."
            return self._problem(request, session, 403, "Nothing was changed", text)
        visit = Visit(session.user, request.query_params, form, request.path_params, self._config, self.databases)
        try:
            if request.method == "POST" and page.change is not None:
                return page.change(visit)
            return self._read(page, request, session, visit)
        except NotFoundError as error:
            return self._problem(request, session, 404, "Not found", str(error))
        except ForbiddenError as error:
            return self._problem(request, session, 403, "Not allowed", str(error))
        except ConflictError as error:
            return self._problem(request, session, 409, "Nothing was changed", str(error), back=error.back)
        except InvalidInputError as error:
            return self._problem(request, session, 422, "Nothing was changed", str(error), back=error.back)
        except UnavailableError as error:
            _log.warning("%s: PostgreSQL does not answer (%s).", request.url.path, error)
            text = "The database does not answer. This page tries again by itself."
            return self._problem(request, session, 503, "No connection to the database", text, refresh=RETRY_SECONDS)
        except psycopg.errors.QueryCanceled:
            _log.warning("%s: a query took longer than %d s.", request.url.path, QUERY_SECONDS)
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
                "can_log_out": session is not None and self._access.has_login,
                "dagster_url": self._config.dagster_url,
                "currency": self._config.schema.currency,
                **view.values,
            }
        )
        return HTMLResponse(html, status_code=view.status)

    async def http_error(self, request: Request, error: Exception) -> Response:
        """Show that there is no such page, or that it is not called like this."""
        status = error.status_code if isinstance(error, HTTPException) else 500
        title = "Not found" if status == 404 else "This is not possible"
        return await run_in_threadpool(
            self._problem, request, None, status, title, f"There is nothing to see at {request.url.path}."
        )

    async def plotly(self, _: Request) -> Response:
        """Return Plotly's JavaScript, which its Python package contains."""
        file = files("plotly") / "package_data" / PLOTLY
        return FileResponse(
            str(file), media_type="text/javascript", headers={"cache-control": f"max-age={DAY_SECONDS}"}
        )

    # Logins

    async def login(self, request: Request) -> Response:
        """Show the form to log in, or log somebody in."""
        if not self._access.has_login:
            return RedirectResponse("/", status_code=303)
        if request.method == "GET":
            return self._login_form(request, "", status=200)
        form = await _form_of(request)
        return await run_in_threadpool(self._log_in, request, form)

    def _log_in(self, request: Request, form: Mapping[str, str]) -> Response:
        if not comes_from_here(request.headers):
            return self._login_form(request, "The form was sent by another site.", status=403)
        address = request.client.host if request.client is not None else ""
        try:
            result = self._access.log_in(form.get("name", ""), form.get("password", ""), address=address)
        except DashboardError as error:
            return self._problem(request, None, 503, "Nobody can log in", str(error))
        if isinstance(result, float):
            if result == 0:
                return self._login_form(request, "The name or the password is wrong.", status=401)
            text = f"Too many attempts. Try again in {result:.0f} seconds."
            answer = self._login_form(request, text, status=429)
            answer.headers["retry-after"] = f"{result:.0f}"
            return answer
        answer = RedirectResponse(_own_place(form.get("next", "")), status_code=303)
        answer.set_cookie(
            COOKIE,
            result,
            max_age=round(self._config.session.total_seconds()),
            httponly=True,
            samesite="lax",
            secure=self._config.is_encrypted,
        )
        return answer

    def _login_form(self, request: Request, problem: str, *, status: int) -> Response:
        place = _own_place(request.query_params.get("next", ""))
        values = {"problem": problem, "next": place}
        return self._render(request, None, View("login.html.j2", "Log in", values, status=status))

    async def logout(self, request: Request) -> Response:
        """End the session."""
        if comes_from_here(request.headers):
            self._access.log_out(request)
        answer = RedirectResponse("/login", status_code=303)
        answer.delete_cookie(COOKIE)
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
    """Return a place on this server; its first page if the text leads elsewhere."""
    parts = urlsplit(place)
    is_own = place.startswith("/") and not place.startswith(("//", "/\\")) and not parts.scheme and not parts.netloc
    return place if is_own else "/"
