"""The workload of the benchmarks: a trained model and a backlog of events."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd
import psycopg
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks import wide
from churn_platform.database import model_versions
from churn_platform.features.cleaning import clean
from churn_platform.features.columns import columns_of
from churn_platform.features.encoding import OneHotEncoder
from churn_platform.features.imputing import Imputer
from churn_platform.features.scaling import MinMaxScaler
from churn_platform.features.transform import FeatureTransform
from churn_platform.model_store import save_bundle
from churn_platform.modeling.training import data_hash, train
from churn_platform.schema.current import schema_of
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.generator import generate_customers
from churn_platform.scoring.bundle import ModelBundle
from churn_platform.settings import settings
from churn_platform.simulation.producer import Row, produce, rows_of
from churn_platform.stream.config import StreamConfig

CUSTOMERS: Final = 10_000
SEED: Final = 42
PARTITIONS: Final = 3


def customers() -> list[Row]:
    """Return customers for events, which are about 330 bytes each with the default schema."""
    schema = schema_of(settings())
    return rows_of(_generated(schema), schema)


def trained_bundle(folder: Path) -> str:
    """Train a bundle with the platform's hyperparameters on generated customers, and return where it was saved."""
    schema = schema_of(settings())
    rows = cleaned_customers(schema)
    columns = columns_of(rows, schema.feature_columns)
    imputer = Imputer.fit(rows, schema)
    imputed = pd.DataFrame(imputer.impute(columns))
    transform = FeatureTransform(
        schema=schema,
        imputer=imputer,
        encoder=OneHotEncoder.fit(imputed, schema),
        scaler=MinMaxScaler.fit(imputed, schema),
    )
    trained = train(transform.transform(columns), rows[schema.target].to_numpy(), schema)
    bundle = ModelBundle(
        model=trained.model,
        transform=transform,
        threshold=trained.threshold,
        metrics=trained.evaluation.as_dict("oof_"),
        code_version="benchmark",
        data_hash=data_hash(rows),
        calibration=trained.calibration.calibration,
    )
    save_bundle(bundle, str(folder))
    return str(folder)


def cleaned_customers(schema: CustomerSchema) -> pd.DataFrame:
    """Return generated customers who can be scored."""
    return clean(_generated(schema), schema)


def _generated(schema: CustomerSchema) -> pd.DataFrame:
    """Return generated customers of the default schema, or of the wide one."""
    return wide.customers(CUSTOMERS, SEED) if schema.name == wide.NAME else generate_customers(CUSTOMERS, SEED)


def promote(dsn: str, bundle: str) -> None:
    """Make the bundle champion in a database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        model_versions.register(connection, version=1, uri=bundle, run_id="benchmark", metrics={})
        model_versions.promote(connection, 1)


def create_topic(name: str) -> None:
    """Create a topic with PARTITIONS partitions and log-append timestamps."""
    admin = AdminClient(settings().kafka_client)
    new = NewTopic(
        name, num_partitions=PARTITIONS, replication_factor=1, config={"message.timestamp.type": "LogAppendTime"}
    )
    for created in admin.create_topics([new]).values():
        created.result()


def fill(topic: str, rows: Sequence[Row], count: int) -> None:
    """Send events to a topic."""
    config = replace(StreamConfig.from_settings(settings()), events_topic=topic)
    produce(config, rows, count=count, rate=None, duration=None, seed=SEED)
