"""Jobs: sets of assets that one run materializes. The maintenance job, which has ops, is in maintenance.py."""

import dagster as dg

from churn_platform.orchestration.retries import BATCH_JOB, NO_LIMIT, WINDOW_JOB
from churn_platform.orchestration.run_sizes import DATA, STREAMING, TRAINING

# The executor of all jobs. All steps run in the run's own process: each is short, and starting a process for it would
# take longer than its work.
IN_PROCESS = dg.in_process_executor

data_preparation_job = dg.define_asset_job(
    "data_preparation_job",
    selection=dg.AssetSelection.groups("raw", "preparation"),
    tags={**BATCH_JOB, **DATA.tags},
    description="Reads the customers file and prepares the features of both splits, with their checks.",
)

training_job = dg.define_asset_job(
    "training_job",
    selection=dg.AssetSelection.groups("training"),
    tags={**BATCH_JOB, **TRAINING.tags},
    description="Trains a model on the prepared features, evaluates it, and promotes it if its gain is significant.",
)

prediction_stream_job = dg.define_asset_job(
    "prediction_stream_job",
    selection=["churn_predictions"],
    # The sensor launches the next run itself, after increasing waits. A retry by Dagster would be a second run.
    tags={**NO_LIMIT, **STREAMING.tags, "dagster/max_retries": "0"},
    description="Streams customer events into one batch of predictions, or replays a closed batch.",
)

hourly_metrics_job = dg.define_asset_job(
    "hourly_metrics_job",
    selection=["churn_metrics_hourly"],
    tags={**WINDOW_JOB, **DATA.tags},
    description="Computes the metrics of an hour or a range of hours.",
)

hourly_monitoring_job = dg.define_asset_job(
    "hourly_monitoring_job",
    selection=["drift_hourly"],
    tags={**WINDOW_JOB, **DATA.tags},
    description="Evaluates the drift of an hour or a range of hours.",
)

daily_monitoring_job = dg.define_asset_job(
    "daily_monitoring_job",
    selection=["drift_daily", "live_performance", "monitoring_report"],
    tags={**WINDOW_JOB, **DATA.tags},
    description="Evaluates the drift and the live performance of a day or a range of days, and writes its report.",
)

outcomes_job = dg.define_asset_job(
    "outcomes_job",
    selection=["customer_outcomes"],
    tags={**WINDOW_JOB, **DATA.tags},
    description="Reads new messages from the outcomes topic.",
)

retraining_job = dg.define_asset_job(
    "retraining_job",
    selection=dg.AssetSelection.groups("raw", "preparation", "training"),
    tags={**BATCH_JOB, **TRAINING.tags},
    description="Reads the customers file, prepares the data and trains a model. The retraining_sensor requests it.",
)

customer_scoring_job = dg.define_asset_job(
    "customer_scoring_job",
    selection=["customer_file_scores"],
    tags={**BATCH_JOB, **DATA.tags},
    description="Scores every customer of a file with the champion.",
)

retention_effect_job = dg.define_asset_job(
    "retention_effect_job",
    selection=["retention_effect"],
    tags={**BATCH_JOB, **DATA.tags},
    description="Compares the customers who were assigned to calls with those of the control group.",
)

shadow_comparison_job = dg.define_asset_job(
    "shadow_comparison_job",
    selection=["shadow_comparison"],
    tags={**BATCH_JOB, **DATA.tags},
    description="Compares the latest shadow with the champion on the stream's events.",
)

daily_metrics_job = dg.define_asset_job(
    "daily_metrics_job",
    selection=["churn_metrics_daily"],
    tags={**WINDOW_JOB, **DATA.tags},
    description="Computes the metrics of a day or a range of days.",
)
