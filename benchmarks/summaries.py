"""Summary tables: queries of views and pages at many predictions, the first start, and following new commits."""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Final, LiteralString

import psutil
import psycopg
import typer
from psycopg.types.json import Jsonb
from rich.console import Console
from rich.table import Table

from benchmarks.growth import BATCH_ROWS, NOW, Stream
from benchmarks.machine import this_machine
from benchmarks.servers import new_database, own_stack, owner_of, vacuum
from churn_platform.schema.current import schema_of
from churn_platform.settings import settings
from churn_platform.worker.summaries import SummariesConfig, SummariesDuty

DATABASE: Final = "summaries"
DAYS: Final = 29
QUERIES: Final = 9
FOLLOWED: Final = (0, 1_000, 10_000, 20_000)
"""Rows of a run of the duty. At 5,000 events per second, 20,000 come in its longest pause."""
RUNS: Final = 7
QUERY_ALLOWED: Final = 0.05  # seconds
SHARE_ALLOWED: Final = 0.1  # of a core, at 5,000 events per second

VIEWS: Final[dict[str, LiteralString]] = {
    "v_top_risk_customers": "select * from v_top_risk_customers",
    "v_segment_churn": "select * from v_segment_churn",
    "v_geography_churn": "select * from v_geography_churn",
    "v_model_performance": "select * from v_model_performance",
}
PAGES: Final[dict[str, LiteralString]] = {
    "customers by risk": """
        select * from customer_summary
        where (risk_score, customer_id) < (0.9, 2^62) order by risk_score desc, customer_id desc limit 50
    """,
    "high-risk customers by money": """
        select * from customer_summary
        where high_risk and (money_at_risk, customer_id) < (100000, 2^62)
        order by money_at_risk desc nulls last, customer_id desc limit 50
    """,
    "latest customers": """
        select * from customer_summary order by event_timestamp desc, customer_id desc limit 50
    """,
    "customers of a rare combination by risk": """
        select * from customer_summary
        where segments @> %(rare)s order by risk_score desc, customer_id desc limit 50
    """,
    "sums of customers": """
        select segments ->> 'geography', sum(customers), sum(high_risk_customers), sum(money_at_risk)
        from customer_segment_summary group by 1
    """,
    "days of a segment": """
        select date, sum(total_predictions), sum(risk_sum) / sum(total_predictions)
        from prediction_summary where segments @> '{"geography": "Spain"}' group by 1 order by 1
    """,
}


@dataclass
class Results:
    """Seconds; medians of several runs, except for the first start. `follow` is CPU time of PostgreSQL's session."""

    predictions: int
    customers: int = 0
    first_start: float = 0.0
    queries: dict[str, float] = field(default_factory=dict)
    follow: dict[int, float] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Share of a core that the duty uses at 5,000 events per second."""
        rows = max(self.follow)
        return self.follow[rows] / rows * 5_000


def median(count: int, work: Callable[[], object]) -> float:
    """Return the median seconds of some runs, after one that is not counted."""
    seconds = []
    for _ in range(1 + count):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def measure(console: Console, predictions: int) -> Results:
    """Measure with this many predictions of a million customers on the last days."""
    results = Results(predictions)
    with own_stack() as stack, psycopg.connect(new_database(stack, DATABASE), autocommit=True) as connection:
        began = time.monotonic()
        per_second = predictions / timedelta(days=DAYS).total_seconds()
        stream = Stream(connection, begins=NOW - timedelta(days=DAYS), per_second=per_second)
        for rows in range(0, predictions, BATCH_ROWS):
            key = stream.open_batch()
            stream.commit(key, min(BATCH_ROWS, predictions - rows))
            stream.close_batch(key)
        vacuum(owner_of(stack, DATABASE))
        console.print(f"{predictions:,} predictions: {time.monotonic() - began:.0f} s", style="dim", highlight=False)
        duty = SummariesDuty(SummariesConfig(schema_of(settings()), control_share=0.1))
        results.first_start = _run(duty, connection)
        vacuum(owner_of(stack, DATABASE))
        counted = connection.execute("select sum(customers)::bigint from customer_segment_summary").fetchone()
        results.customers = 0 if counted is None else counted[0]
        rare = connection.execute("select segments from customer_segment_summary order by customers limit 1").fetchone()
        arguments = {"rare": Jsonb({} if rare is None else rare[0])}
        for name, query in {**VIEWS, **PAGES}.items():
            results.queries[name] = median(QUERIES, partial(_fetch, connection, query, arguments))
        key = stream.open_batch()
        for rows in FOLLOWED:
            with psycopg.connect(connection.info.dsn, password=connection.info.password, autocommit=True) as session:
                for _ in range(2):  # the last blocks are known from the third reading on
                    _commit_and_follow(stream, key, rows, duty, session)
                before = _cpu_seconds(session)
                for _ in range(RUNS):
                    _commit_and_follow(stream, key, rows, duty, session)
                results.follow[rows] = (_cpu_seconds(session) - before) / RUNS
    return results


def _commit_and_follow(stream: Stream, key: str, rows: int, duty: SummariesDuty, session: psycopg.Connection) -> None:
    if rows:
        stream.commit(key, rows)
    _run(duty, session)


def _fetch(connection: psycopg.Connection, query: LiteralString, arguments: dict[str, Jsonb]) -> None:
    connection.execute(query, arguments).fetchall()


def _cpu_seconds(session: psycopg.Connection) -> float:
    """Return the CPU time of the process of PostgreSQL that serves a session."""
    times = psutil.Process(session.info.backend_pid).cpu_times()
    return times.user + times.system


def _run(duty: SummariesDuty, connection: psycopg.Connection) -> float:
    """Let the duty follow everything; return how long that took, in seconds."""
    began = time.perf_counter()
    while duty.run(connection):
        pass
    return time.perf_counter() - began


def show(console: Console, results: Results) -> None:
    """Print the results as tables."""
    table = Table("query", "ms", box=None, header_style="dim")
    for name, seconds in results.queries.items():
        table.add_row(name, f"{1_000 * seconds:,.1f}")
    console.print(table)
    table = Table("rows of a run", "ms of CPU", box=None, header_style="dim")
    for rows, seconds in results.follow.items():
        table.add_row(f"{rows:,}", f"{1_000 * seconds:,.0f}")
    console.print(table)
    console.print(
        f"{results.predictions:,} predictions of {results.customers:,} customers. First start: "
        f"{results.first_start:.0f} s. At 5,000 events per second: {results.share:.1%} of a core.",
        highlight=False,
    )


def main(
    predictions: Annotated[int, typer.Option(help="Predictions that are there.")] = 3_000_000,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Measure the summary tables on separate servers. The exit code is 1 if a query or the duty takes too long.

    Example: make bench-summaries ARGS="--predictions 10000000"
    """
    console, machine, began = Console(width=120), this_machine(), time.monotonic()
    console.print(str(machine), highlight=False)
    results = measure(console, predictions)
    show(console, results)
    console.print(f"Took {time.monotonic() - began:.0f} s.", highlight=False)
    if json_file is not None:
        json_file.write_text(json.dumps({**asdict(results), "machine": asdict(machine)}, indent=2) + "\n")
    slow = [name for name, seconds in results.queries.items() if seconds > QUERY_ALLOWED]
    if slow or results.share > SHARE_ALLOWED:
        console.print(f"Too slow: {', '.join(slow) or 'following'}.", style="red")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
