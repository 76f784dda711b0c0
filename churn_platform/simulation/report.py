"""The results of the demonstration: tables for a person, JSON for a program."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from rich.console import Console
from rich.table import Table

from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.simulation.scenario import Outcome

MODEL_FIGURES = ("roc_auc", "accuracy", "precision", "recall", "f1", "brier", "ece")


def as_json(outcome: Outcome, *, seconds: float) -> dict[str, object]:
    """Return the outcome for JSON. `seconds` is how long the whole demonstration took."""
    return {
        "raw_rows": outcome.raw_rows,
        "cleaned_rows": outcome.cleaned_rows,
        "model": _model_json(outcome),
        "events_produced": outcome.events_produced,
        "predictions": outcome.stream.predictions,
        "dead_letters": outcome.stream.dead_letters,
        "duplicates": outcome.stream.duplicates,
        "published": outcome.published,
        "batches": outcome.stream.batches,
        "hours": outcome.hours,
        "days": outcome.days,
        "high_risk": outcome.stream.high_risk,
        "open_cases": outcome.open_cases,
        "latency_ms": {"p50": round(outcome.latency_p50_ms, 1), "p99": round(outcome.latency_p99_ms, 1)},
        "first_event_seconds": round(outcome.first_event_seconds, 2),
        "outcomes": {"sent": outcome.outcomes_sent, "read": outcome.outcomes_read},
        "drift": outcome.drift,
        "live_performance": outcome.live,
        "sums": outcome.sums,
        "seconds": round(seconds, 1),
    }


def _model_json(outcome: Outcome) -> dict[str, object]:
    """Return the model's out-of-fold metrics and, under `test`, those on the test split."""
    figures = _metrics_by_split(outcome.model_metrics)
    out_of_fold = dict(figures["the folds (out of fold)"])
    return {
        "version": outcome.model_version,
        "oof_roc_auc": out_of_fold.pop("roc_auc"),
        **out_of_fold,
        "threshold": outcome.model_metrics.get("threshold"),
        "test": {name: value for name, value in figures["the test split"].items() if name in MODEL_FIGURES},
    }


def show(console: Console, outcome: Outcome, schema: CustomerSchema) -> None:
    """Print the outcome. `schema` is that of the customers."""
    console.print(_model(outcome))
    console.print(_stream(outcome))
    console.print(_hours(outcome.hourly))
    console.print(_top_risk(outcome.riskiest, outcome.open_cases, schema))
    console.print(_drift(outcome.drift))
    console.print(_live(outcome.live))
    for sentence, holds in outcome.sums.items():
        console.print(f"[green]✓[/green] {sentence}" if holds else f"[red]✗ {sentence}: does not hold[/red]")


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right")
    table.columns[0].justify = "left"
    return table


def _model(outcome: Outcome) -> Table:
    figures = _metrics_by_split(outcome.model_metrics)
    table = _table(
        f"\nThe model: version {outcome.model_version}, "
        f"from {outcome.cleaned_rows:,} of {outcome.raw_rows:,} customers",
        ["measured on", *MODEL_FIGURES],
    )
    for measured_on, values in figures.items():
        table.add_row(measured_on, *(f"{values[name]:.4f}" if name in values else "" for name in MODEL_FIGURES))
    return table


def _metrics_by_split(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return the metrics by what they were measured on. Out-of-fold metrics have the prefix oof_."""
    return {
        "the test split": {name: value for name, value in metrics.items() if not name.startswith("oof_")},
        "the folds (out of fold)": {
            name.removeprefix("oof_"): value for name, value in metrics.items() if name.startswith("oof_")
        },
    }


def _stream(outcome: Outcome) -> Table:
    stream = outcome.stream
    table = _table("\nThe stream", ["events", "predictions", "dead letters", "duplicates", "published", "batches"])
    table.add_row(
        f"{stream.events:,}",
        f"{stream.predictions:,}",
        f"{stream.dead_letters:,}",
        f"{stream.duplicates:,}",
        f"{outcome.published:,}",
        f"{stream.batches:,}",
    )
    mixed = ", ".join(f"{count:,} {kind}" for kind, count in sorted(outcome.mixed_in.items()))
    table.caption = (
        f"Mixed in: {mixed or 'nothing'}. From event to row: p50 {outcome.latency_p50_ms:,.0f} ms, "
        f"p99 {outcome.latency_p99_ms:,.0f} ms; the first event, with no live run: {outcome.first_event_seconds:.1f} s."
    )
    table.caption_justify = "left"
    return table


def _hours(hourly: list[dict[str, object]]) -> Table:
    table = _table("\nThe latest hours (UTC)", ["hour", "predictions", "churn rate", "average risk", "high risk"])
    for row in hourly:
        hour = row["hour_timestamp"]
        table.add_row(
            f"{hour:%Y-%m-%d %H:00}" if isinstance(hour, datetime) else str(hour),
            f"{row['total_predictions']:,}",
            f"{row['churn_rate']:.1f} %",
            f"{row['avg_risk_score']:.3f}",
            f"{row['high_risk_count']:,}",
        )
    return table


def _drift(drift: list[dict[str, object]]) -> Table:
    table = _table("\nDrift of the latest day", ["verdict", "features", "greatest PSI"])
    for row in drift:
        psi = "" if row["greatest_psi"] is None else f"{row['greatest_psi']:.3f}"
        table.add_row(str(row["verdict"]), f"{row['features']:,}", psi)
    return table


def _live(live: list[dict[str, object]]) -> Table:
    table = _table(
        "\nLive performance", ["model version", "outcomes", "left", "ROC AUC", "expected", "calibration error"]
    )
    for row in live:
        auc, expected = ("" if row[name] is None else f"{row[name]:.4f}" for name in ("roc_auc", "expected_roc_auc"))
        table.add_row(
            str(row["model_version"]),
            f"{row['labelled']:,}",
            f"{100 * float(str(row['churn_rate'])):.1f} %",
            auc,
            expected,
            f"{row['ece']:.4f}",
        )
    return table


def _top_risk(riskiest: list[dict[str, object]], open_cases: int, schema: CustomerSchema) -> Table:
    title = "\nCustomers with the highest risk"
    table = _table(title, ["customer", "risk", *(column.column for column in schema.summary)])
    table.caption = (
        f"{open_cases:,} customers have a case for the retention team. Its call list is another one: it has the cases "
        "with the highest priority, and nobody of the control group."
    )
    table.caption_justify = "left"
    for row in riskiest:
        values = (_value(row[column.column], column) for column in schema.summary)
        table.add_row(str(row["customer_id"]), f"{row['risk_score']:.3f}", *values)
    return table


def _value(value: object, column: Column) -> str:
    if value is None:
        return "unknown"
    if column.money_at_risk:
        return f"{value:,.2f}"
    return f"{value:,.10g}" if column.is_number else str(value)
