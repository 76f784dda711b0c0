"""Files to download."""

from contextlib import suppress

from anyio.from_thread import start_blocking_portal
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect
from starlette.types import Message

from churn_platform.dashboard.config import DashboardConfig
from churn_platform.dashboard.databases import MOST_EXPORTS, Databases
from churn_platform.dashboard.exports import download
from churn_platform.dashboard.page import Visit
from churn_platform.dashboard.users import User


def test_downloads_whose_reader_has_gone_take_no_place(config: DashboardConfig) -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(_: Message) -> None:
        raise OSError("The connection is closed.")

    databases = Databases(config)
    visit = Visit(User("erika", "viewer"), QueryParams(), {}, {}, config, databases)
    scope = {"type": "http", "asgi": {"spec_version": "2.4"}}
    answers = []  # kept, so that nothing is freed by chance
    for _ in range(MOST_EXPORTS + 1):
        answer = download(
            visit, "numbers", "csv", [("number", "Number")], lambda _: ([number] for number in range(100_000))
        )
        answers.append(answer)
        with start_blocking_portal() as portal, suppress(ClientDisconnect):
            portal.call(answer, scope, receive, send)
    with databases.exporting() as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    databases.close()
