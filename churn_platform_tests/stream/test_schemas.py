"""The stream of any customer schema, and of one that changes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from churn_platform.archive import archive_next
from churn_platform.database import model_versions
from churn_platform.database.advisory_locks import archive_lock
from churn_platform.database.migrations import upgrade
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.features.cleaning import clean
from churn_platform.local.stack import Stack
from churn_platform.model_store import load_bundle, save_bundle
from churn_platform.operations.erasure import archived, tables
from churn_platform.operations.verification.verify import check_invariants
from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.simulation.producer import Row, customer_event, rows_of, wrong_values
from churn_platform.stream import run_session
from churn_platform.stream.exceptions import SchemaDisagreementError, SchemaNotRecordedError
from churn_platform.stream.scoring import Champion, ChampionFollower
from churn_platform.worker.cases import CasesDuty
from churn_platform.worker.summaries import SummariesConfig, SummariesDuty
from churn_platform_tests.conftest import copy_database, new_template
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS, any_customers
from churn_platform_tests.operations.erasure.lives import places_with
from churn_platform_tests.scoring.bundles import bundle_of
from churn_platform_tests.stream.streams import Stream, event, new_stream
from churn_platform_tests.worker.teams import new_config

VISITS = Column(
    name="Visits", kind="whole", minimum=0, maximum=100, missing="median", optional=True, summary=True, segment=True
)
WITH_VISITS = replace(BANK, columns=(*BANK.columns, VISITS))
WITH_VISITS_AS_FEATURE = replace(BANK, columns=(*BANK.columns, replace(VISITS, transforms=("value",))))
WITHOUT_TENURE = replace(BANK, columns=tuple(column for column in BANK.columns if column.name != "Tenure"))


@dataclass(frozen=True)
class DataSet:
    """A schema with customers, a model for them, and the name of an empty database for them."""

    schema: CustomerSchema
    rows: list[Row]
    bundle_uri: str
    template: str


@pytest.fixture(scope="module", params=[BANK, SUBSCRIBERS], ids=lambda schema: schema.name)
def data_set(request: pytest.FixtureRequest, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """One of the data sets of the repository, with customers at random."""
    schema: CustomerSchema = request.param
    frame = any_customers(schema, 400, seed=7)
    uri = str(tmp_path_factory.mktemp(schema.name))
    save_bundle(bundle_of(clean(frame, schema), schema), uri)
    template: str = request.getfixturevalue("template_database") if schema == BANK else new_template(stack, schema)
    return DataSet(schema, rows_of(frame, schema), uri, template)


@pytest.fixture
def any_stream(stack: Stack, data_set: DataSet) -> Iterator[Stream]:
    """A stream of the data set."""
    dsn = copy_database(stack, data_set.template)
    with new_stream(dsn, data_set.bundle_uri, schema=data_set.schema, high_risk_threshold=0.0) as stream:
        yield stream
    run_session.end_kept()


def stored(stream: Stream, schema: CustomerSchema) -> dict[str, dict[str, Any]]:
    """Return the customers' columns in churn_predictions by customer id, as events name them."""
    table = prediction_table(schema)
    query = sql.SQL("select customer_id, {} from churn_predictions").format(
        sql.SQL(", ").join(sql.Identifier(column.name) for column in table.customer)
    )
    rows = stream.connection.execute(query).fetchall()
    return {row[0]: dict(zip([column.field for column in table.customer], row[1:], strict=True)) for row in rows}


def as_stored(value: object, column: Column) -> object:
    """Return a value of an event as the table has it."""
    if value is None:
        return None
    if column.kind == "date":
        return date.fromisoformat(str(value))
    return pytest.approx(value, rel=1e-6) if column.single_precision else value


@pytest.mark.slow
def test_events_of_a_schema_become_rows_messages_and_reasons(any_stream: Stream, data_set: DataSet) -> None:
    schema, rows = data_set.schema, data_set.rows
    events = [customer_event(row, schema, moment=datetime.now(UTC)) for row in rows]
    wrong = [{**events[0], name: value} for name, value in wrong_values(schema)]
    any_stream.send([*events, *events[:2], *wrong])

    batch = any_stream.stream()

    assert (batch.predictions, batch.duplicates, batch.dead_letters) == (len(events), 2, len(wrong))
    assert batch.schema_fingerprint == schema.fingerprint
    in_table = stored(any_stream, schema)
    for row in rows:
        identity: Any = row[schema.id]
        assert in_table[identity] == {column.name: as_stored(row[column.name], column) for column in schema.stored}
    published = {each["customer_id"]: each for each in any_stream.published()}
    for row in rows:
        for column in schema.summary:
            value = row[column.name]
            expected = pytest.approx(value, rel=1e-6) if column.single_precision and value is not None else value
            assert published[row[schema.id]][column.column] == expected
    assert any_stream.value("select count(*) from high_risk_customers where reasons is null") == 0
    assert [each.name for each in check_invariants(any_stream.config) if not each.holds] == []


@pytest.mark.slow
def test_customers_of_a_schema_get_cases_with_reasons_as_sentences(any_stream: Stream, data_set: DataSet) -> None:
    schema = data_set.schema
    any_stream.send([customer_event(row, schema, moment=datetime.now(UTC)) for row in data_set.rows])
    any_stream.stream()
    config = replace(new_config(schema), customer_url="https://crm.example.com/{customer_id}")

    CasesDuty(replace(config, policy=replace(config.policy, threshold=1e-9))).run(any_stream.connection)

    cases: list[tuple[Any, ...]] = any_stream.connection.execute(
        "select customer_id, reasons, money_at_risk, segments, link from retention_cases"
    ).fetchall()
    assert {customer for customer, *_ in cases} == {row[schema.id] for row in data_set.rows}
    money = schema.money_at_risk
    for customer, reasons, at_risk, segments, link in cases:
        assert all(sentence.endswith(" raises the risk") for sentence in reasons)
        assert (at_risk is None) == (money is None)
        assert segments.keys() == {column.column for column in schema.segments}
        assert link == f"https://crm.example.com/{customer}"


@pytest.mark.slow
def test_scores_of_a_schema_are_those_of_its_model_and_a_replay_finds_them_again(
    any_stream: Stream, data_set: DataSet
) -> None:
    schema = data_set.schema
    any_stream.send([customer_event(row, schema, moment=datetime.now(UTC)) for row in data_set.rows])
    batch = any_stream.stream()
    query = "select customer_id, risk_score from churn_predictions order by 1"
    scores = any_stream.rows(query)

    any_stream.materialize(batch.batch)

    assert any_stream.rows(query) == scores
    by_customer = {row[schema.id]: row for row in data_set.rows}
    rows = [by_customer[customer] for customer, _ in scores]  # type: ignore[index]  # rows of any query are objects
    dtypes = {"category": "object", "date": "datetime64[s]"}
    columns = {
        name: np.array([row[name] for row in rows], dtypes.get(schema.by_name[name].kind, "float64"))
        for name in schema.inputs
    }
    for column in schema.stored:
        if column.single_precision:
            columns[column.name] = columns[column.name].astype(np.float32)
    expected = load_bundle(data_set.bundle_uri).score(columns)
    assert [float(expected[number]) for number in range(len(rows))] == pytest.approx([risk for _, risk in scores], 1e-6)


@pytest.mark.slow
def test_a_customer_of_a_schema_is_erased_from_tables_and_archive(
    any_stream: Stream, data_set: DataSet, tmp_path: Path
) -> None:
    schema, connection = data_set.schema, any_stream.connection
    erased: Any = data_set.rows[0][schema.id]
    other: Any = data_set.rows[1][schema.id]
    wrong = dict(wrong_values(schema))
    for _ in range(2):
        events = [customer_event(row, schema, moment=datetime.now(UTC)) for row in data_set.rows[:50]]
        any_stream.send([*events, {**events[0], **wrong, schema.id: erased}])
        any_stream.stream()
    duty = SummariesDuty(SummariesConfig(schema, control_share=0.5))
    assert duty.run(connection) is False
    first = any_stream.rows("select min(batch) from stream_batches")[0][0]
    connection.execute(
        "update stream_batches set reported = true, closed = closed - interval '1 year' where batch = %s", (first,)
    )
    with archive_lock(connection):
        assert archive_next(connection, str(tmp_path), before=datetime.now(UTC) - timedelta(days=90)) is not None
        rows = archived.separate(connection, erased)
        _, counts = tables.erase(connection, schema, erased, erased_by="test", archived=rows)
        archived.remove_former(connection, str(tmp_path), erased)
    any_stream.send([customer_event(data_set.rows[0], schema, moment=datetime.now(UTC))])
    last = any_stream.stream()
    assert duty.run(connection) is False

    assert (counts["churn_predictions"], counts["archive"], counts["dead_letter_events"]) == (1, 1, 2)
    assert (last.events, last.erased) == (1, 1)
    assert archived.count(str(tmp_path), erased) == 0
    assert archived.read(str(tmp_path), other) != []
    assert sum(tables.count(connection, schema, erased, event_ids=rows.event_ids).values()) == 0
    if schema == SUBSCRIBERS:  # ids of the others are short numbers, which also occur as counts
        assert places_with(connection, erased, ["public"]) == []
    assert [each.name for each in check_invariants(any_stream.config) if not each.holds] == []


def owner(stack: Stack, stream: Stream) -> str:
    """Return the connection string for the owner of the stream's tables."""
    return make_conninfo(stack.owner_dsn, dbname=conninfo_to_dict(stream.config.dsn)["dbname"])


def test_a_database_that_was_not_prepared_for_the_schema_is_refused(stream: Stream) -> None:
    stream.send([event(1)])

    with pytest.raises(SchemaNotRecordedError, match="churn db upgrade"):
        stream.stream(schema=WITH_VISITS)

    assert stream.value("select count(*) from churn_predictions") == 0


@pytest.mark.slow
def test_a_live_stream_survives_an_added_optional_column_with_the_model_of_before(stack: Stack, stream: Stream) -> None:
    stream.send([event(1, Visits="many")])  # ignored: the schema does not have it yet
    old = stream.stream()
    upgrade(owner(stack, stream), WITH_VISITS)

    stream.send([event(2), event(3, Visits=7), event(4, Visits="many")])
    new = stream.stream(schema=WITH_VISITS)

    assert (old.predictions, new.predictions, new.dead_letters) == (1, 2, 1)
    assert stream.rows("select visits from churn_predictions order by customer_id") == [(None,), (None,), (7,)]
    assert [each.get("visits") for each in sorted(stream.published(), key=lambda each: str(each["customer_id"]))] == [
        None,
        None,
        7,
    ]


@pytest.mark.slow
def test_a_replay_accepts_events_by_the_schema_of_their_batch(stack: Stack, stream: Stream) -> None:
    stream.send([event(1, Visits="many")])
    old = stream.stream()
    upgrade(owner(stack, stream), WITH_VISITS)
    stream.send([event(2, Visits="many")])
    new = stream.stream(schema=WITH_VISITS)
    before = stream.rows("select event_id, risk_score, batch from churn_predictions")

    stream.materialize(old.batch, new.batch, schema=WITH_VISITS)

    assert stream.rows("select event_id, risk_score, batch from churn_predictions") == before
    assert [(each.predictions, each.dead_letters) for each in map(stream.batch, (old.batch, new.batch))] == [
        (1, 0),
        (0, 1),
    ]


@pytest.mark.slow
def test_events_without_a_feature_of_the_champion_are_refused_by_name(stack: Stack, stream: Stream) -> None:
    upgrade(owner(stack, stream), WITHOUT_TENURE)
    stream.send([event(1)])

    with pytest.raises(SchemaDisagreementError, match="the events have no Tenure") as refused:
        stream.stream(schema=WITHOUT_TENURE)

    assert "champion_model" in refused.value.remedy
    assert stream.waiting() == 1


@pytest.mark.slow
def test_a_replay_with_a_champion_of_another_schema_is_refused_by_name_and_changes_nothing(
    stack: Stack, stream: Stream, tmp_path: Path
) -> None:
    stream.send([event(1)])
    batch = stream.stream()
    before = stream.rows("select event_id, risk_score, model_version from churn_predictions")
    upgrade(owner(stack, stream), WITH_VISITS_AS_FEATURE)
    customers = clean(any_customers(WITH_VISITS_AS_FEATURE, 300, seed=7), WITH_VISITS_AS_FEATURE)
    save_bundle(bundle_of(customers, WITH_VISITS_AS_FEATURE), str(tmp_path))
    model_versions.register(stream.connection, version=2, uri=str(tmp_path), run_id="another", metrics={})
    model_versions.promote(stream.connection, 2)

    with pytest.raises(SchemaDisagreementError, match=f"the events of batch {batch.batch}.*have no Visits"):
        stream.materialize(batch.batch, schema=WITH_VISITS_AS_FEATURE)

    assert stream.rows("select event_id, risk_score, model_version from churn_predictions") == before


def test_a_promoted_model_that_does_not_fit_is_not_used_and_the_champion_keeps_scoring(
    stream: Stream, bundle_uri: str, tmp_path: Path
) -> None:
    customers = clean(any_customers(WITH_VISITS_AS_FEATURE, 300, seed=7), WITH_VISITS_AS_FEATURE)
    save_bundle(bundle_of(customers, WITH_VISITS_AS_FEATURE), str(tmp_path))
    follower = ChampionFollower(Champion(1, load_bundle(bundle_uri)), BANK, stream.log.append)
    model_versions.register(stream.connection, version=2, uri=str(tmp_path), run_id="another", metrics={})
    model_versions.promote(stream.connection, 2)

    follower.follow(stream.connection, 2)

    assert follower.current.version == 1
    assert "Champion version 2 cannot be used" in stream.log[-1]
    assert "the events have no Visits" in stream.log[-1]


@pytest.mark.slow
def test_a_batch_that_was_left_open_with_another_schema_is_closed_and_the_next_one_has_the_new_schema(
    stack: Stack, stream: Stream
) -> None:
    key = stream.plan()
    stream.commit_and_die(key, [event(1)])
    upgrade(owner(stack, stream), WITH_VISITS)
    stream.send([event(2, Visits=3)])

    outcome = stream.materialize(key, schema=WITH_VISITS)
    new = stream.stream(schema=WITH_VISITS)

    assert "customer schema has changed" in outcome.note
    assert stream.batch(key).closed is not None
    assert (stream.batch(key).schema_fingerprint, new.schema_fingerprint) == (
        BANK.fingerprint,
        WITH_VISITS.fingerprint,
    )
    assert stream.published_ids() == stream.table_ids()
    assert len(stream.table_ids()) == 2
