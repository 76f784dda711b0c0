"""The code location: the only place where assets, checks, jobs, schedules, sensors and resources come together.

Dagster loads `defs`. This is the only module that reads the settings when it is imported.
"""

import warnings
from collections.abc import Mapping

import dagster as dg

from churn_platform.orchestration.assets.file_scores import file_score_assets
from churn_platform.orchestration.assets.labelled_customers import labelled_assets
from churn_platform.orchestration.assets.metrics import metrics_assets
from churn_platform.orchestration.assets.monitoring.drift import drift_assets
from churn_platform.orchestration.assets.monitoring.live_performance import live_performance_assets
from churn_platform.orchestration.assets.monitoring.outcomes import outcome_assets
from churn_platform.orchestration.assets.monitoring.report import report_assets
from churn_platform.orchestration.assets.monitoring.shadow_comparison import shadow_comparison_assets
from churn_platform.orchestration.assets.operators import operator_assets
from churn_platform.orchestration.assets.predictions import prediction_assets
from churn_platform.orchestration.assets.preparation import preparation_assets
from churn_platform.orchestration.assets.raw import raw_assets
from churn_platform.orchestration.assets.retention import retention_assets
from churn_platform.orchestration.assets.retention_effect import effect_assets
from churn_platform.orchestration.assets.spark_preparation import spark_preparation_assets
from churn_platform.orchestration.assets.training import training_assets
from churn_platform.orchestration.checks.preparation_checks import preparation_checks
from churn_platform.orchestration.console_logger import NAME as CONSOLE_LOGGER
from churn_platform.orchestration.console_logger import console_logger
from churn_platform.orchestration.customers_sensor import customers_sensor
from churn_platform.orchestration.dg_errors import report_errors
from churn_platform.orchestration.ended_runs import keep_noticing_ended_runs
from churn_platform.orchestration.io_managers.parquet import ParquetIOManager
from churn_platform.orchestration.io_managers.postgres import PostgresIOManager
from churn_platform.orchestration.jobs import (
    IN_PROCESS,
    customer_scoring_job,
    daily_metrics_job,
    daily_monitoring_job,
    data_preparation_job,
    hourly_metrics_job,
    hourly_monitoring_job,
    outcomes_job,
    prediction_stream_job,
    retention_effect_job,
    retraining_job,
    shadow_comparison_job,
    training_job,
)
from churn_platform.orchestration.maintenance import maintenance_job, maintenance_schedule
from churn_platform.orchestration.monitoring_sensors import monitoring_sensor, retraining_sensor
from churn_platform.orchestration.partitions import TimePartitions
from churn_platform.orchestration.resources.kafka import KafkaResource
from churn_platform.orchestration.resources.mlflow import MlflowRegistry, mlflow_run
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.run_processes import fork_runs
from churn_platform.orchestration.schedules import (
    retention_effect_schedule,
    scoring_schedules,
    shadow_comparison_schedule,
    training_schedules,
)
from churn_platform.orchestration.stream_sensors import customer_events_sensor, dirty_hours_sensor
from churn_platform.orchestration.worker_sensor import worker_sensor
from churn_platform.schema.current import schema_of
from churn_platform.settings import PROJECT_ROOT, Settings, load_settings


def build_defs(settings: Settings, *, resource_overrides: Mapping[str, object] | None = None) -> dg.Definitions:
    """Return the definitions of the code location.

    Args:
        settings: what the definitions depend on: the customer schema, whether training uses outcomes, what prepares
            its data, the first partition, the times of schedules, the limits in the descriptions of checks, links to
            the code. Runs and ticks read the settings again.
        resource_overrides: resources by key, which replace the default ones.

    Raises:
        SchemaError: the customer schema is missing or not valid.
    """
    resources = {
        "io_manager": ParquetIOManager(),
        "postgres_io_manager": PostgresIOManager(),
        "postgres": PostgresResource(),
        "kafka": KafkaResource(),
        "mlflow": mlflow_run,
        "mlflow_registry": MlflowRegistry(),
        **(resource_overrides or {}),
    }
    schema = schema_of(settings)
    partitions = TimePartitions.since(settings.stream.epoch)
    by_spark = settings.spark.prepares == "spark"
    assets = [
        *(
            spark_preparation_assets(schema)
            if by_spark
            else [
                *raw_assets(schema),
                *preparation_assets(schema, train_on_outcomes=settings.training.train_on_outcomes),
            ]
        ),
        *labelled_assets(schema, train_on_outcomes=settings.training.train_on_outcomes),
        *training_assets(schema, stored=by_spark),
        *prediction_assets(schema),
        *retention_assets(schema),
        *operator_assets(),
        *outcome_assets(schema),
        *metrics_assets(partitions, schema),
        *drift_assets(partitions, settings.monitoring, schema),
        *live_performance_assets(partitions),
        *report_assets(partitions),
        *file_score_assets(schema),
        *effect_assets(),
        *shadow_comparison_assets(),
    ]
    links = settings.dagster
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # links to code are in beta: a warning for each asset and load
        linked = dg.with_source_code_references(assets)
        if links.code_url:
            linked = dg.link_code_references_to_git(
                linked,
                git_url=links.code_url,
                git_branch=links.code_branch,
                file_path_mapping=dg.AnchorBasedFilePathMapping(PROJECT_ROOT, file_anchor_path_in_repository=""),
            )
    return dg.Definitions(
        loggers={CONSOLE_LOGGER: console_logger},
        assets=linked,
        asset_checks=preparation_checks(schema, settings.monitoring, stored=by_spark),
        jobs=[
            data_preparation_job,
            training_job,
            prediction_stream_job,
            hourly_metrics_job,
            daily_metrics_job,
            hourly_monitoring_job,
            daily_monitoring_job,
            outcomes_job,
            customer_scoring_job,
            retention_effect_job,
            shadow_comparison_job,
            retraining_job,
            maintenance_job,
        ],
        schedules=[
            *training_schedules(settings.schedules),
            *scoring_schedules(settings.schedules),
            retention_effect_schedule,
            shadow_comparison_schedule,
            maintenance_schedule,
        ],
        sensors=[
            customer_events_sensor,
            customers_sensor,
            dirty_hours_sensor,
            monitoring_sensor,
            retraining_sensor,
            worker_sensor,
        ],
        resources=resources,
        executor=IN_PROCESS,
    )


report_errors()
keep_noticing_ended_runs()
fork_runs()
defs = build_defs(load_settings())
