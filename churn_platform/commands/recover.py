"""`churn recover`: reconcile a restored database with Kafka."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from churn_platform.commands.stack import servers_up
from churn_platform.commands.terminal import AsJson, ProgressReporter, emit, output, report_errors

if TYPE_CHECKING:  # Kafka's client is slow to import
    from churn_platform.operations.recovery.recover import Recovery


def recover(as_json: AsJson = False) -> None:
    """Reconcile the database with Kafka after one of them was restored to an earlier state or has lost data.

    Events that had been read after that state are scored again. Predictions that are in the predictions topic already
    are not published again. It can be repeated at any time, and then reports how many scores differ from the published
    ones. While a healthy run is live, the exit code is 3: there is nothing to recover, or pause the stream first.

    Example: churn recover
    """
    from churn_platform.operations.recovery import recover as recovery
    from churn_platform.settings import load_settings
    from churn_platform.stream.config import StreamConfig

    with report_errors(), servers_up("kafka", "postgres"):
        config = StreamConfig.from_settings(load_settings())
        with ProgressReporter("Reading Kafka and PostgreSQL") as progress:
            found = recovery.recover(config, progress)
    if as_json:
        emit(as_dict(found))
    else:
        _show(found)


def as_dict(found: "Recovery") -> dict[str, object]:
    """Return what was found and done, for JSON."""
    reconciled = found.reconciled
    return {
        "topic": reconciled.topic,
        "partitions": [
            {"kafka_partition": partition, "position": reconciled.positions[partition], "published": published}
            for partition, published in reconciled.published.items()
        ],
        "predictions": reconciled.predictions,
        "recovered": asdict(found.comparison),
    }


def _show(found: "Recovery") -> None:
    reconciled, comparison = found.reconciled, found.comparison
    for partition, published in reconciled.published.items():
        _print(
            f"{reconciled.topic}[{partition}] was read up to offset {reconciled.positions[partition]:,}, but published "
            f"up to {published:,}. These events are scored again."
        )
    if reconciled.predictions:
        _print(
            f"{reconciled.predictions:,} predictions in the topic have no row. They are recorded in "
            f"recovered_predictions, and are not published again."
        )
    if comparison.recovered:
        _print(
            f"Of {comparison.recovered:,} recovered predictions, {comparison.scored:,} events are scored again: "
            f"{comparison.other_score:,} with another risk score than the published one"
            + (f", by at most {comparison.largest_difference:.3g}" if comparison.other_score else "")
            + f", {comparison.other_version:,} by another model version."
        )
        if comparison.scored < comparison.recovered:
            _print(
                "The stream scores the others ('churn up' starts it). Then 'churn recover' shows how the scores differ."
            )
    if not (reconciled.published or reconciled.predictions or comparison.recovered):
        _print("Kafka and the database agree; nothing was changed.")


def _print(text: str) -> None:
    output.print(text, highlight=False, markup=False, soft_wrap=True)
