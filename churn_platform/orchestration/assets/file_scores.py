"""The asset of a scored file: every customer of a file with a risk score, a band and a rank."""

from collections.abc import Iterator
from typing import Final

import dagster as dg

from churn_platform.orchestration.assets.columns import file_score_columns
from churn_platform.orchestration.assets.raw import FILE
from churn_platform.orchestration.assets.ui_metadata import rows_table
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.retries import retry_transient_errors
from churn_platform.schema.current import customers_of
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.settings import settings

FILE_SCORES: Final = "customer_file_scores"
GROUP: Final = "retention"
MAX_REASONS: Final = 20  # rows of the table of reasons, as for quarantined_customers


def file_score_assets(schema: CustomerSchema) -> list[dg.AssetsDefinition]:
    """Return the scores of a file's customers.

    Args:
        schema: of the customers.
    """

    @dg.asset(
        name=FILE_SCORES,
        group_name=GROUP,
        owners=["team:retention"],
        kinds={"xgboost", "parquet", "postgres"},
        deps=[FILE, dg.AssetDep("champion_model")],
        metadata={**file_score_columns(schema), "dagster/table_name": FILE_SCORES},
        description=_DESCRIPTION,
    )
    def customer_file_scores(
        context: dg.AssetExecutionContext, postgres: PostgresResource
    ) -> dg.MaterializeResult[None]:
        from churn_platform.database import customer_file_scores as table
        from churn_platform.database import erased_customers
        from churn_platform.database.prediction_columns import prediction_table
        from churn_platform.file_scoring.output import rejected_place, write_scores
        from churn_platform.file_scoring.ranking import BANDS
        from churn_platform.file_scoring.scoring import ScoredFile, score_file
        from churn_platform.files.artifacts import ASSETS, join
        from churn_platform.stream.scoring import load_champion_for

        def at_risk(scored: ScoredFile) -> Iterator[table.FileScore]:
            for block in scored.blocks():
                for customer, risk, left, reasons, columns in zip(
                    block.customer_id.tolist(),
                    block.risk_score.tolist(),
                    block.left.tolist(),
                    block.reasons,
                    block.customers,
                    strict=True,
                ):
                    if reasons is not None and columns is not None and not left:
                        yield table.FileScore(customer, risk, reasons, columns)

        place = settings().retention.scoring_file or customers_of(settings())
        target = join(settings().platform.artifacts_root, ASSETS, f"{FILE_SCORES}.parquet")
        with retry_transient_errors(), postgres.connect("churn file scores") as connection:
            champion = load_champion_for(connection, schema)
            erased = erased_customers.load(connection)
        threshold = settings().retention.high_risk_threshold
        with (
            retry_transient_errors(),
            score_file(place, schema, champion, high_risk_threshold=threshold, erased=erased) as scored,
        ):
            write_scores(scored, schema, target)
            with postgres.connect("churn file scores") as connection:
                stored = table.replace_all(
                    connection,
                    prediction_table(schema),
                    at_risk(scored),
                    model_version=scored.model_version,
                    scored_at=scored.scored_at,
                )
        if scored.rejected:
            context.log.warning(f"{scored.rejected:,} rows break a rule of the schema: {rejected_place(target)}")
        bands = [{"band": band, "customers": count} for band, count in zip(BANDS, scored.counts, strict=True)]
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": scored.customers,
                "at_risk": stored,
                "rejected": scored.rejected,
                "duplicates": scored.duplicates,
                "erased": scored.erased,
                "model_version": scored.model_version,
                "source": dg.MetadataValue.path(place),
                "scores": dg.MetadataValue.path(target),
                "rejected_rows": dg.MetadataValue.path(rejected_place(target)),
                **rows_table("bands", bands),
                "seconds": round(scored.seconds, 1),
            }
        )

    return [customer_file_scores]


_DESCRIPTION: Final = """\
Every customer of a file once, scored by the champion: risk, band and rank, and reasons for those at high risk.

The file is `SCORING_FILE`, or else the customers file. The scores are the same as the stream's. All of them are in the
Parquet file that each materialization names. The table `customer_file_scores` has the customers whose risk reaches
`HIGH_RISK_THRESHOLD` and who, as far as the file says, have not left; with `CASES_FROM=file` or `both` they open cases.
Rows that break a rule of the customer schema are in the file `rejected_rows`, with the reasons.

`customer_scoring_schedule` scores the file every night (`CUSTOMER_SCORING_CRON`). It is off until you turn it on.
`churn score` scores any other file."""
