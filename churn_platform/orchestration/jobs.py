"""Jobs: what is launched as one run."""

import dagster as dg

# One process for all steps: each is short, and starting a process for it would take longer than its work.
IN_PROCESS = dg.in_process_executor

data_preparation_job = dg.define_asset_job(
    "data_preparation_job",
    selection=dg.AssetSelection.groups("raw", "preparation"),
    executor_def=IN_PROCESS,
    description="Reads the customers file anew and prepares the features of both splits, with their checks.",
)

training_job = dg.define_asset_job(
    "training_job",
    selection=dg.AssetSelection.groups("training"),
    executor_def=IN_PROCESS,
    description="Trains a model on the prepared features, judges it, and makes it champion if its gain is no chance.",
)

prediction_stream_job = dg.define_asset_job(
    "prediction_stream_job",
    selection=["churn_predictions"],
    executor_def=IN_PROCESS,
    # The sensor starts the next run itself, with a wait that grows; a run retried by Dagster would be one too many.
    tags={"dagster/max_retries": "0"},
    description="Streams customer events into one batch of predictions, or replays a batch that is closed.",
)

hourly_metrics_job = dg.define_asset_job(
    "hourly_metrics_job",
    selection=["churn_metrics_hourly"],
    executor_def=IN_PROCESS,
    description="Computes the figures of one hour, or of a window of hours.",
)

hourly_monitoring_job = dg.define_asset_job(
    "hourly_monitoring_job",
    selection=["drift_hourly"],
    executor_def=IN_PROCESS,
    description="Judges the drift of one hour, or of a window of hours.",
)

daily_monitoring_job = dg.define_asset_job(
    "daily_monitoring_job",
    selection=["drift_daily", "live_performance", "monitoring_report"],
    executor_def=IN_PROCESS,
    description="Judges the drift and the live performance of one day, or of a window of days, and writes its page.",
)

outcomes_job = dg.define_asset_job(
    "outcomes_job",
    selection=["customer_outcomes"],
    executor_def=IN_PROCESS,
    description="Reads what waits in the outcomes topic.",
)

retraining_job = dg.define_asset_job(
    "retraining_job",
    selection=dg.AssetSelection.groups("raw", "preparation", "training"),
    executor_def=IN_PROCESS,
    description="Reads the customers file anew, prepares the data and trains: what the retraining_sensor asks for.",
)

daily_metrics_job = dg.define_asset_job(
    "daily_metrics_job",
    selection=["churn_metrics_daily"],
    executor_def=IN_PROCESS,
    description="Computes the figures of one day, or of a window of days.",
)
