"""The PostgreSQL IO manager stores and loads frames of partitioned assets, through Dagster."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pandas as pd
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from churn_platform.local.stack import Stack
from churn_platform.orchestration.io_managers.postgres import PostgresIOManager, PostgresIOManagerError

START = datetime(2026, 11, 20, tzinfo=UTC)
hours = dg.HourlyPartitionsDefinition(start_date=START, end_date=START + timedelta(days=4))
days = dg.DailyPartitionsDefinition(start_date=START, end_date=START + timedelta(days=4))
regions = dg.StaticPartitionsDefinition(["north", "south"])
batches = dg.DynamicPartitionsDefinition(name="io_batches")


class Figures:
    """An asset with a table of figures, partitioned like the assets of the code location."""

    def __init__(self, frame: pd.DataFrame, partitions: dg.PartitionsDefinition, column: str | None) -> None:
        """Define an asset `figures` that returns this frame."""
        metadata = {} if column is None else {"partition_expr": column}

        @dg.asset(
            partitions_def=partitions,
            metadata=metadata,
            io_manager_key="postgres",
            backfill_policy=dg.BackfillPolicy.single_run(),
        )
        def figures() -> pd.DataFrame:
            return frame

        self.asset = figures

    def store(self, key: str, instance: dg.DagsterInstance | None = None) -> dg.ExecuteInProcessResult:
        """Materialize one partition."""
        return dg.materialize(
            [self.asset], partition_key=key, resources={"postgres": PostgresIOManager()}, instance=instance
        )

    def load(self, key: str | None = None, instance: dg.DagsterInstance | None = None) -> pd.DataFrame:
        """Load one partition, or all rows."""
        definitions = dg.Definitions([self.asset], resources={"postgres": PostgresIOManager()})
        frame = definitions.load_asset_value("figures", partition_key=key, instance=instance)
        assert isinstance(frame, pd.DataFrame)
        return frame


def frame_of(hour: datetime, *values: float) -> pd.DataFrame:
    """Return rows within one hour."""
    return pd.DataFrame(
        {
            "measured_at": pd.to_datetime(
                [hour + timedelta(minutes=minute) for minute in range(len(values))], utc=True
            ),
            "label": [f"it's {value}\t\\N" for value in values],
            "value": values,
            "count": range(len(values)),
            "known": [value > 1 for value in values],
        }
    )


@pytest.fixture
def table_creating_login(platform: str, stack: Stack) -> str:
    """The connection string of a platform whose login may create tables."""
    owner = make_conninfo(stack.owner_dsn, dbname=str(conninfo_to_dict(platform)["dbname"]))
    with psycopg.connect(owner) as connection:
        connection.execute("grant create on schema public to churn_writer")
    return platform


def test_a_loaded_frame_equals_the_stored_one(table_creating_login: str) -> None:
    frame = frame_of(START, 1.5, float("nan"), 3.25)
    frame["day"] = date(2026, 11, 20)
    figures = Figures(frame, hours, "measured_at")

    result = figures.store("2026-11-20-00:00")
    loaded = figures.load("2026-11-20-00:00")

    pd.testing.assert_frame_equal(loaded, frame, check_dtype=False, check_index_type=False)
    metadata = result.asset_materializations_for_node("figures")[0].metadata
    assert metadata["dagster/partition_row_count"].value == 3
    with psycopg.connect(table_creating_login) as connection:
        types: dict[str, str] = dict(
            connection.execute(
                "select column_name, data_type from information_schema.columns where table_name = 'figures'"
            ).fetchall()
        )
    assert types == {
        "measured_at": "timestamp with time zone",
        "label": "text",
        "value": "double precision",
        "count": "bigint",
        "known": "boolean",
        "day": "date",
    }


@pytest.mark.usefixtures("table_creating_login")
def test_storing_a_partition_again_replaces_only_its_rows() -> None:
    first, second = START, START + timedelta(hours=1)
    Figures(frame_of(first, 1, 2), hours, "measured_at").store("2026-11-20-00:00")
    Figures(frame_of(second, 3), hours, "measured_at").store("2026-11-20-01:00")

    again = Figures(frame_of(first, 9), hours, "measured_at")
    again.store("2026-11-20-00:00")

    assert again.load("2026-11-20-00:00")["value"].tolist() == [9]
    assert again.load("2026-11-20-01:00")["value"].tolist() == [3]


@pytest.mark.usefixtures("table_creating_login")
def test_a_row_outside_its_partition_is_refused_and_nothing_is_written() -> None:
    figures = Figures(frame_of(START, 1), hours, "measured_at")
    figures.store("2026-11-20-00:00")
    stray = Figures(frame_of(START, 5), hours, "measured_at")

    with pytest.raises(PostgresIOManagerError, match="are outside its partition"):
        stray.store("2026-11-20-01:00")

    assert figures.load("2026-11-20-00:00")["value"].tolist() == [1]


@pytest.mark.usefixtures("table_creating_login")
def test_static_and_dynamic_partitions_are_selected_by_key() -> None:
    frame = pd.DataFrame({"region": ["north", "north"], "value": [1, 2]})
    figures = Figures(frame, regions, "region")
    figures.store("north")
    Figures(pd.DataFrame({"region": ["south"], "value": [3]}), regions, "region").store("south")

    assert figures.load("north")["value"].tolist() == [1, 2]
    assert figures.load("south")["value"].tolist() == [3]

    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("io_batches", ["one"])
        dynamic = Figures(pd.DataFrame({"region": ["one"], "value": [4]}), batches, "region")
        dynamic.store("one", instance)
        assert dynamic.load("one", instance)["value"].tolist() == [4]


@pytest.mark.usefixtures("platform")
def test_without_permission_to_create_the_table_the_error_names_the_migration() -> None:
    with pytest.raises(PostgresIOManagerError, match=r"figures does not exist.* migration"):
        Figures(frame_of(START, 1), hours, "measured_at").store("2026-11-20-00:00")


@pytest.mark.usefixtures("table_creating_login")
def test_the_error_for_a_missing_partition_column_tells_how_to_name_it() -> None:
    with pytest.raises(PostgresIOManagerError, match="partition_expr"):
        Figures(frame_of(START, 1), hours, None).store("2026-11-20-00:00")


@pytest.mark.usefixtures("table_creating_login")
def test_the_error_for_an_unknown_column_names_it() -> None:
    Figures(frame_of(START, 1), hours, "measured_at").store("2026-11-20-00:00")
    wider = frame_of(START, 1).assign(surprise=1)

    with pytest.raises(PostgresIOManagerError, match="'surprise'"):
        Figures(wider, hours, "measured_at").store("2026-11-20-00:00")


@pytest.mark.usefixtures("table_creating_login")
def test_the_error_for_a_missing_table_tells_what_to_materialize() -> None:
    with pytest.raises(PostgresIOManagerError, match="materialize figures first"):
        Figures(frame_of(START, 1), hours, "measured_at").load("2026-11-20-00:00")


@pytest.mark.usefixtures("table_creating_login")
def test_a_day_loads_its_hours() -> None:
    hourly = Figures(frame_of(START + timedelta(hours=5), 1, 2), hours, "measured_at")
    hourly.store("2026-11-20-05:00")
    Figures(frame_of(START + timedelta(hours=30), 7), hours, "measured_at").store("2026-11-21-06:00")

    @dg.asset(partitions_def=days)
    def total(figures: pd.DataFrame) -> float:
        return float(figures["value"].sum())

    result = dg.materialize(
        [hourly.asset, total],
        selection=[total],
        partition_key="2026-11-20",
        resources={"postgres": PostgresIOManager(), "io_manager": dg.mem_io_manager},
    )

    assert result.output_for_node("total") == 3.0


def test_loading_an_archived_batch_is_an_error(platform: str) -> None:
    predictions = dg.AssetSpec(
        "churn_predictions", partitions_def=batches, metadata={"partition_expr": "batch"}
    ).with_io_manager_key("postgres")
    definitions = dg.Definitions([predictions], resources={"postgres": PostgresIOManager()})
    with psycopg.connect(platform) as connection:
        connection.execute(
            "insert into stream_batches (batch, archived, archive) values ('old', now(), 'archive/old.parquet')"
        )

    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(batches.name), ["old"])
        with pytest.raises(PostgresIOManagerError, match=r"archive/old\.parquet"):
            definitions.load_asset_value("churn_predictions", partition_key="old", instance=instance)
