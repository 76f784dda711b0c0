"""The list of customers: its order, filters, parts and files, and what it hides from those who call customers."""

import csv
import io
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import psycopg
import pytest
from playwright.sync_api import BrowserContext, Page, expect
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from python_calamine import CalamineWorkbook

from churn_platform.dashboard import addresses
from churn_platform.dashboard.config import DashboardConfig
from churn_platform.dashboard.databases import MOST_EXPORTS
from churn_platform.dashboard.formats import NOTHING
from churn_platform.dashboard.pages.customers import MOST_COUNTED, ROWS
from churn_platform.local.environment import READER_VARIABLE
from churn_platform.local.stack import Stack
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.toml_file import load_schema
from churn_platform.settings import PROJECT_ROOT
from churn_platform_tests.dashboard.accessibility import HEIGHT, PHONE, barriers, open_without_errors
from churn_platform_tests.dashboard.site import PageOf, Site, serving
from churn_platform_tests.dashboard.summaries import add_case, as_viewer, summarize
from churn_platform_tests.database.conftest import new_database
from churn_platform_tests.worker.ledger import FollowedLedger, Scored

CAPTION = "Customers at their latest event"
HOUR = timedelta(hours=1)
LINES_OF_TEXT = """(element) => {
    const range = document.createRange();
    range.selectNodeContents(element.lastChild);
    return range.getClientRects().length;
}"""
COLUMNS = ("customer", "risk", "band", "change", "money", "reasons", "country", "gender", "age", "products", "latest")


def rows_of(page: PageOf) -> list[dict[str, str]]:
    """Return the rows of the list by the names in COLUMNS."""
    return [dict(zip(COLUMNS, row, strict=True)) for row in page.rows(CAPTION)]


def ids_of(page: PageOf) -> list[int]:
    """Return the customers of the list, in its order."""
    return [int(row["customer"]) for row in rows_of(page)]


def link_of(page: PageOf, text: str) -> str | None:
    """Return where the link with this text leads, if there is one."""
    found = page.root.xpath("//main//a[starts-with(normalize-space(), $text)]/@href", text=text)
    return str(found[0]) if found else None


def add_customers(connection: psycopg.Connection, count: int, *, arm: str = "contact") -> None:
    """Add customers to the summaries, which many events would take long to fill. Some have equal values."""
    connection.execute(
        "insert into customer_summary (customer_id, event_id, event_timestamp, batch, kafka_partition, kafka_offset, "
        "model_version, risk_score, prediction, high_risk, money_at_risk, segments, first_event_timestamp, "
        "predictions, arm) "
        "select n, gen_random_uuid(), now() - n / 3 * interval '1 minute', 'batch-001', 0, n, 1, n %% 7 / 10.0, 0, "
        "false, nullif(n %% 11, 0), jsonb_build_object('geography', 'Spain'), now(), 1, %s "
        "from generate_series(1, %s) as g (n)",
        (arm, count),
    )


def test_says_what_is_missing_before_the_first_event(site: Site) -> None:
    assert "No customers yet: no event was scored." in site.page("/customers").text


def test_says_that_the_worker_has_to_read_predictions(site: Site, ledger: FollowedLedger) -> None:
    ledger.commit([Scored(1, 0.5)])

    assert "the resident worker has not read the predictions" in site.page("/customers").text


def test_shows_each_customer_at_the_latest_event_highest_risk_first(
    site: Site, connection: psycopg.Connection, ledger: FollowedLedger, bank_schema: CustomerSchema
) -> None:
    ledger.commit([Scored(1, 0.5, ago=HOUR), Scored(2, 0.3), Scored(3, 0.85, ago=HOUR)])
    ledger.commit([Scored(1, 0.75, balance=125_510.4, age=None), Scored(3, 0.65)], explained=True)
    summarize(connection, bank_schema)

    page = site.page("/customers")

    first, second, third = rows_of(page)
    assert first | {"latest": ""} == {
        "customer": "1",
        "risk": "75.0 %",
        "band": "high",
        "change": "+25.0 ↗",
        "money": "125,510 EUR",
        "reasons": "Balance of 125,510 euros, Active member: no",
        "country": "Germany",
        "gender": "Male",
        "age": "missing",
        "products": "1",
        "latest": "",
    }
    assert (second["customer"], second["band"], second["change"], second["reasons"]) == (
        "3",
        "medium",
        "-20.0 ↘",
        NOTHING,
    )
    assert (third["customer"], third["band"], third["change"]) == ("2", "low", "first")
    assert "3 customers as of" in page.text
    assert "High: at least the high-risk threshold of 70 %" in page.text
    assert link_of(page, "3") == "/customers/3"


def test_filters_by_segments_band_and_id(
    site: Site, connection: psycopg.Connection, ledger: FollowedLedger, bank_schema: CustomerSchema
) -> None:
    ledger.commit([Scored(1, 0.9, country="France"), Scored(2, 0.5, country="France"), Scored(3, 0.4)])
    summarize(connection, bank_schema)

    def found(**parameters: str) -> list[int]:
        query = urlencode({name.replace("_", "-"): value for name, value in parameters.items()})
        page = site.page(f"/customers?{query}")
        return ids_of(page) if page.root.xpath("//table") else []

    assert found(segment_geography="France") == [1, 2]
    assert found(segment_geography="France", band="medium") == [2]
    assert found(segment_geography="France", segment_age="40 to 49") == [1, 2]
    assert found(band="high") == [1]
    assert found(search="3") == [3]
    assert found(search="33") == found(search="not a number") == found(search="9" * 30) == []
    assert found(segment_geography="Atlantis") == []
    assert found(sort="nonsense", after="nonsense", band="nonsense") == [1, 2, 3]


def test_the_choices_of_a_filter_are_the_values_that_customers_have_in_the_order_of_the_schema(
    site: Site, connection: psycopg.Connection, ledger: FollowedLedger, bank_schema: CustomerSchema
) -> None:
    ledger.commit([Scored(1, 0.5, age=61), Scored(2, 0.5, age=None, country="Spain"), Scored(3, 0.5, age=20)])
    summarize(connection, bank_schema)

    page = site.page(addresses.customers(segments={"geography": "Spain"}, band="medium"))

    def choices(parameter: str) -> list[str]:
        return list(page.root.xpath("//select[@name = $name]/option/text()", name=parameter))

    assert choices("segment-age") == ["All", "18 to 29 years", "60 to 120 years", "missing"]
    assert choices("segment-geography") == ["All", "Germany", "Spain"]
    assert [each.strip() for each in page.root.xpath("//option[@selected]/text()")] == [
        *("Spain", "All", "All", "All", "Medium", "Hidden"),
    ]
    assert ids_of(page) == [2]


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize("sort", ["risk", "money", "latest"])
@pytest.mark.parametrize("order", ["descending", "ascending"])
def test_the_parts_have_every_customer_once_in_order_forwards_and_backwards(
    site: Site, connection: psycopg.Connection, sort: str, order: str
) -> None:
    count = 2 * ROWS + 10
    add_customers(connection, count)
    value = {"risk": "risk_score", "money": "coalesce(money_at_risk, '-infinity')", "latest": "event_timestamp"}[sort]
    short = order.removesuffix("ending")
    expected = [
        row[0]
        for row in connection.execute(
            f"select customer_id from customer_summary order by {value} {short}, customer_id {short}"  # noqa: S608
        )
    ]

    pages = [site.page(f"/customers?sort={sort}&order={order}")]
    while following := link_of(pages[-1], "Next"):
        pages.append(site.page(following))
    back = [pages[-1]]
    while preceding := link_of(back[-1], "Previous"):
        back.append(site.page(preceding))

    assert [each for page in pages for each in ids_of(page)] == expected
    assert [ids_of(page) for page in back] == [
        expected[-10:],
        expected[ROWS : 2 * ROWS],
        expected[:ROWS],
    ]
    first = link_of(pages[-1], "First")
    assert first is not None
    assert ids_of(site.page(first)) == expected[:ROWS]


@pytest.mark.usefixtures("ledger")
def test_the_heads_of_columns_sort_and_turn_the_order_round(site: Site, connection: psycopg.Connection) -> None:
    add_customers(connection, 30)
    page = site.page("/customers?band=low")

    by_money = link_of(page, "Money at risk")
    assert by_money == "/customers?band=low&sort=money"
    page = site.page(by_money)
    assert page.root.xpath("//th[@aria-sort]/@aria-sort") == ["descending"]
    assert rows_of(page)[0]["money"] == "10 EUR"
    turned = link_of(page, "Money at risk")
    assert turned == "/customers?band=low&sort=money&order=ascending"
    assert site.page(turned).root.xpath("//th[@aria-sort]/@aria-sort") == ["ascending"]


@pytest.mark.usefixtures("ledger")
def test_counts_many_customers_only_so_far_unless_the_summaries_know_their_number(
    config: DashboardConfig, connection: psycopg.Connection
) -> None:
    add_customers(connection, 10 * MOST_COUNTED + 1)  # so many that the index of the order is walked
    connection.execute("insert into summary_state (definition, control_share) values ('', 0)")
    connection.execute(
        """
        insert into customer_segment_summary (
            segments, arm, customers, left_customers, high_risk_customers, risk_sum, money_at_risk
        )
        select segments, arm, count(*), 2, 0, 0, 0 from customer_summary group by 1, 2
        """
    )

    with as_viewer(config) as site:
        assert "10,001 customers" in site.page("/customers?left=shown").text
        filtered = site.page("/customers?left=shown&segment-geography=Spain")
        assert "10,001 customers" in filtered.text
        assert ids_of(filtered) == ids_of(site.page("/customers?left=shown"))
        assert "9,999 customers" in site.page("/customers").text
        assert "More than 1,000 customers" in site.page("/customers?band=low").text
    with serving(config) as site:
        assert "9,999 customers" in site.page("/customers").text
    add_case(connection, 1, arm="control")
    with serving(config) as site:
        assert "9,998 customers" in site.page("/customers").text
        assert "9,998 customers" in site.page("/customers?segment-geography=Spain").text


def test_customers_of_the_control_group_are_only_shown_to_those_who_call_nobody(
    config: DashboardConfig, connection: psycopg.Connection, ledger: FollowedLedger, bank_schema: CustomerSchema
) -> None:
    ledger.commit([Scored(number, 0.3 + number / 100) for number in range(1, 21)])
    summarize(connection, bank_schema, control_share=0.5)
    arms: dict[int, str] = dict(connection.execute("select customer_id, arm from customer_summary").fetchall())
    contacts = [each for each in range(20, 0, -1) if arms[each] == "contact"]
    control = next(each for each in arms if arms[each] == "control")
    assert 0 < len(contacts) < 20

    with serving(config) as site:
        page = site.page("/customers")
        assert ids_of(page) == contacts
        assert f"{len(contacts)} customers" in page.text
        assert "leave out the control group" in page.text
        for path in ("/customers?sort=latest", "/customers?band=medium", "/customers?sort=risk&order=ascending"):
            assert set(ids_of(site.page(path))) <= set(contacts)
        exported = list(csv.DictReader(io.StringIO(site.client.get("/customers.csv").text.removeprefix("\ufeff"))))
        assert [int(row["customer_id"]) for row in exported] == contacts
        searched = site.page(f"/customers?search={control}")
        assert f"Customer {control} is in the control group" in searched.text
        assert f"/customers/{control}" in searched.links()
    with as_viewer(config) as site:
        assert ids_of(site.page("/customers")) == list(range(20, 0, -1))


def test_a_customer_with_an_open_case_of_the_control_group_stays_hidden_when_the_share_changes(
    site: Site, connection: psycopg.Connection, ledger: FollowedLedger, bank_schema: CustomerSchema
) -> None:
    ledger.commit([Scored(1, 0.9), Scored(2, 0.8)])
    summarize(connection, bank_schema)
    add_case(connection, 1, arm="control")

    assert ids_of(site.page("/customers")) == [2]


def test_files_have_all_customers_that_the_list_would_show(
    site: Site,
    connection: psycopg.Connection,
    ledger: FollowedLedger,
    bank_schema: CustomerSchema,
    tmp_path: Path,
) -> None:
    ledger.commit([Scored(1, 0.9, country="France"), Scored(2, 0.75)], explained=True)
    ledger.commit([Scored(3 + number, 0.5, country="Spain") for number in range(ROWS + 5)])
    summarize(connection, bank_schema)
    links = [
        link for link in site.page("/customers?segment-geography=Spain&sort=latest").links() if "after" not in link
    ]
    (csv_link,) = [link for link in links if link.startswith("/customers.csv")]
    (workbook_link,) = [link for link in links if link.startswith("/customers.xlsx")]

    answer = site.client.get(csv_link)
    assert answer.headers["content-type"].startswith("text/csv")
    assert 'attachment; filename="customers-20' in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text.removeprefix("\ufeff"), newline="")))
    assert sorted(int(row["customer_id"]) for row in rows) == [3 + number for number in range(ROWS + 5)]

    (tmp_path / "a.xlsx").write_bytes(site.client.get(workbook_link).content)
    sheet = CalamineWorkbook.from_path(tmp_path / "a.xlsx").get_sheet_by_index(0).to_python()
    assert len(sheet) == ROWS + 6
    assert sheet[0] == [
        *("Customer", "Risk score", "Risk", "Risk score before", "Money at risk (EUR)", "Country", "Gender", "Age"),
        *("Number of products", "Latest event (UTC)", "Predictions", "Reasons", "Left (UTC)"),
    ]
    first = dict(zip(sheet[0], sheet[1], strict=True))
    assert isinstance(first["Latest event (UTC)"], datetime)
    assert (first["Number of products"], first["Money at risk (EUR)"]) == (1.0, 1_000.0)
    (row,) = csv.DictReader(io.StringIO(site.client.get("/customers.csv?search=1").text.removeprefix("\ufeff")))
    assert row | {"latest_event": ""} == {
        "customer_id": "1",
        "risk_score": "0.9",
        "risk_band": "high",
        "previous_risk_score": "",
        "money_at_risk": "1000.0",
        "geography": "France",
        "gender": "Male",
        "age": "40 to 49",
        "num_of_products": "1",
        "latest_event": "",
        "predictions": "1",
        "reasons": "Balance of 125,510 euros, Active member: no",
        "left_at": "",
    }


def test_customers_who_left_are_hidden_unless_they_are_asked_for_or_come_back(
    site: Site, connection: psycopg.Connection, ledger: FollowedLedger, bank_schema: CustomerSchema
) -> None:
    _, of_two, *_ = ledger.commit([Scored(1, 0.9, ago=HOUR), Scored(2, 0.8, ago=HOUR), Scored(3, 0.7), Scored(4, 0.6)])
    for number, (event, customer, left, ago) in enumerate(
        [(None, 1, 1, "0"), (of_two, None, 1, "30 minutes"), (None, 3, 1, "2 hours"), (None, 4, 0, "0")]
    ):
        connection.execute(
            "insert into customer_outcomes (topic_id, kafka_partition, kafka_offset, event_id, customer_id, churned, "
            "outcome_timestamp) values ('outcomes', 0, %s, %s, %s, %s, now() - %s::interval)",
            (number, event, customer, left, ago),
        )
    summarize(connection, bank_schema)

    assert ids_of(site.page("/customers")) == [3, 4]
    everybody = site.page("/customers?left=shown")
    assert ids_of(everybody) == [1, 2, 3, 4]
    assert ["left" in row["band"] for row in rows_of(everybody)] == [True, True, False, False]
    assert ids_of(site.page("/customers?search=1")) == [1]
    assert site.client.get("/customers.csv").text.count("\n") == 3

    ledger.commit([Scored(1, 0.95)])
    connection.execute(
        "update churn_predictions set event_timestamp = now() + interval '1 minute' where risk_score > 0.94"
    )
    summarize(connection, bank_schema)
    assert ids_of(site.page("/customers")) == [1, 3, 4]


@pytest.mark.slow
@pytest.mark.usefixtures("ledger")
def test_downloads_leave_connections_for_pages(site: Site, connection: psycopg.Connection) -> None:
    add_customers(connection, 200_000)  # more than the buffers of a connection hold, so that the server waits
    with ExitStack() as opened:
        answers = [opened.enter_context(site.client.stream("GET", "/customers.csv")) for _ in range(MOST_EXPORTS)]
        begun = [answer.iter_bytes() for answer in answers]  # whoever forgets one of them ends its download
        assert all(next(each) for each in begun)

        page = site.page("/customers.csv", status=503)
        assert "Try again when one of them is complete" in page.text
        assert len(ids_of(site.page("/customers"))) == ROWS


def test_ids_that_are_texts_are_found_by_their_beginning(config: DashboardConfig, stack: Stack) -> None:
    schema = load_schema(PROJECT_ROOT / "data/subscribers/schema.toml")
    database = new_database(stack, schema)
    reader = make_conninfo(stack.environment[READER_VARIABLE], dbname=str(conninfo_to_dict(database.writer)["dbname"]))
    with psycopg.connect(database.writer, autocommit=True) as connection:
        add_customers(connection, 3)
        connection.execute(
            "update customer_summary set customer_id = case customer_id when '1' then 'S-000/12?' when '2' then 'S-9%' "
            "else 's-000123' end"
        )
    with serving(replace(config, schema=schema, reader_dsn=reader)) as site:

        def found(search: str) -> list[str]:
            page = site.page(f"/customers?{urlencode({'search': search})}")
            return sorted(row[0] for row in page.rows(CAPTION)) if page.root.xpath("//table") else []

        assert found("S-") == ["S-000/12?", "S-9%"]
        assert found("S-000/12?") == ["S-000/12?"]
        assert found("%") == found("s_") == found("x") == []
        assert found("") == ["S-000/12?", "S-9%", "s-000123"]
        page = site.page(addresses.customer("S-000/12?"))
        assert page.root.xpath("//h1/text()") == ["Customer S-000/12?"]


def test_filters_and_pages_work_in_the_browser(
    window: BrowserContext, connection: psycopg.Connection, ledger: FollowedLedger, bank_schema: CustomerSchema
) -> None:
    ledger.commit(
        [Scored(number, number / 100, country="Spain" if number % 2 else "France") for number in range(1, 90)]
    )
    summarize(connection, bank_schema)
    page = window.new_page()
    errors = open_without_errors(page, "/customers")

    page.get_by_label("Country").select_option("Spain")
    page.wait_for_url("**/customers?segment-geography=Spain")
    expect(page.get_by_text("45 customers")).to_be_visible()
    page.get_by_role("link", name="Next").click()
    expect(page.get_by_role("rowheader")).to_have_count(45 - ROWS)
    page.get_by_role("link", name="1", exact=True).click()
    expect(page.get_by_role("heading", level=1, name="Customer 1")).to_be_visible()

    assert errors == []


@pytest.fixture
def one_customer(
    window: BrowserContext, connection: psycopg.Connection, ledger: FollowedLedger, bank_schema: CustomerSchema
) -> Page:
    """The list of one customer with long values."""
    ledger.commit([Scored(15_688_053, 0.984, ago=HOUR, age=64.0, gender="Female", balance=213_882.0)], explained=True)
    summarize(connection, bank_schema)
    page = window.new_page()
    page.goto("/customers")
    return page


def test_every_column_is_in_a_window_of_1200_pixels(one_customer: Page) -> None:
    one_customer.set_viewport_size({"width": 1200, "height": HEIGHT})
    assert one_customer.get_by_role("region", name="Customers").evaluate("each => each.scrollWidth <= each.clientWidth")


def test_on_a_phone_a_score_is_one_line(one_customer: Page) -> None:
    one_customer.set_viewport_size({"width": PHONE, "height": HEIGHT})
    assert one_customer.get_by_role("cell", name="98.4 %").evaluate(LINES_OF_TEXT) == 1


def test_has_no_barriers_with_customers(
    window: BrowserContext, connection: psycopg.Connection, ledger: FollowedLedger, bank_schema: CustomerSchema
) -> None:
    ledger.commit([Scored(1, 0.5, ago=HOUR), Scored(2, 0.9), Scored(3, 0.1), Scored(1, 0.4)], explained=True)
    summarize(connection, bank_schema)
    page = window.new_page()
    errors = open_without_errors(page, "/customers?band=")

    assert barriers(page) == []
    assert errors == []
