"""Monitoring of the customers of any schema: samples, drift, and outcomes of customers whose ids are text."""

from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from churn_platform.database import batch_hours, churn_predictions, monitoring_results
from churn_platform.database.batch_hours import HourSums
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.features.columns import columns_of
from churn_platform.local.stack import Stack
from churn_platform.monitoring import evaluation, lookups
from churn_platform.monitoring.drift import Reference, Thresholds, monitored
from churn_platform.monitoring.outcomes import IngestResult
from churn_platform.monitoring.verdicts import SCORE, Verdict
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.settings import settings
from churn_platform_tests.database.conftest import new_database
from churn_platform_tests.database.customer_rows import (
    BATCH,
    COUNT,
    HOUR,
    prediction_rows,
    scorable_customers,
    scores,
)
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS
from churn_platform_tests.monitoring.conftest import Outcomes


@pytest.mark.parametrize("schema", [BANK, SUBSCRIBERS], ids=lambda schema: schema.name)
def test_the_predictions_of_the_training_customers_have_no_drift(stack: Stack, schema: CustomerSchema) -> None:
    customers = scorable_customers(schema)
    reference = Reference.of({**columns_of(customers, schema.inputs), SCORE: scores()}, schema)
    with psycopg.connect(new_database(stack, schema).writer) as connection:
        churn_predictions.insert_new(connection, prediction_rows(prediction_table(schema), customers))
        sums = dict.fromkeys((column.column for column in schema.averaged), 0.0)
        hour = HourSums(
            hour_timestamp=HOUR,
            total_predictions=COUNT,
            churn_count=0,
            risk_sum=0,
            high_risk_count=0,
            averages=sums,
            known=dict.fromkeys(sums, 0),
        )
        batch_hours.add_sums(connection, schema, batch=BATCH, hours=[hour])

        columns = lookups.sample_hour(connection, schema, HOUR).columns[1]

    of_hour = len(columns[SCORE])
    assert of_hour == 120
    assert tuple(columns) == monitored(schema)
    observed = evaluation.count_sample(reference, columns, weight=1)
    given = {**columns_of(customers.head(of_hour), schema.inputs), SCORE: scores()[:of_hour]}
    for name, feature in reference.features.items():
        differing = np.abs(feature.count(np.asarray(given[name])) - np.array(observed[name].counts)).sum()
        assert differing <= 2, name  # in single precision, a value beside an edge may be in the next bin
    expected = Reference.of(given, schema)
    thresholds = Thresholds(shifted=0.1, far=0.25, min_rows=100)
    again = evaluation.count_sample(expected, columns, weight=1)
    assert {each.verdict for each in evaluation.evaluate(1, expected, again, thresholds)} == {Verdict.STABLE}


def test_outcomes_of_customers_with_text_ids_are_ingested_and_join_their_predictions(stack: Stack) -> None:
    customers = scorable_customers(SUBSCRIBERS)
    left, stayed = customers[SUBSCRIBERS.id].iloc[:2]
    with psycopg.connect(new_database(stack, SUBSCRIBERS).writer, autocommit=True) as connection:
        churn_predictions.insert_new(connection, prediction_rows(prediction_table(SUBSCRIBERS), customers))
        topic = Outcomes("outcomes-of-subscribers", connection, AdminClient(settings().kafka_client), SUBSCRIBERS)
        topic.create()
        topic.send(
            {SUBSCRIBERS.id: left, "true_churn_label": 1},
            {SUBSCRIBERS.id: stayed, "true_churn_label": 0},
            {SUBSCRIBERS.id: 17, "true_churn_label": 0},
        )

        assert topic.ingest() == IngestResult(left=1, stayed=1, rejected=1)

        now = datetime.now(UTC)
        counted = monitoring_results.count_labelled(connection, start=HOUR, end=now + timedelta(hours=1), bins=10)
        (reason,) = topic.rejected().values()
    assert sorted((churned, count) for _, _, churned, count, *_ in counted) == [(0, 1), (1, 1)]
    assert SUBSCRIBERS.id in reason
