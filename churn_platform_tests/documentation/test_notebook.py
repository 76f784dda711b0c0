"""The notebook gives the right answers on a real database, and runs on an empty one of another customer schema."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nbformat
import psycopg
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from churn_platform.database import model_versions
from churn_platform.local.environment import READER_VARIABLE
from churn_platform.local.stack import Stack
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.toml_file import load_schema
from churn_platform.settings import PROJECT_ROOT
from churn_platform.worker.summaries import SummariesConfig, SummariesDuty
from churn_platform_tests.conftest import copy_database, new_template
from churn_platform_tests.worker.ledger import FollowedLedger, Scored

FOLDER = PROJECT_ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
DAY = timedelta(days=1)
SUBSCRIBERS = PROJECT_ROOT / "data/subscribers/schema.toml"


@dataclass(frozen=True)
class Executed:
    """A notebook after all of its cells ran."""

    notebook: NotebookNode

    @property
    def text(self) -> str:
        """The sentences that it shows, as Markdown."""
        return "\n".join(data["text/markdown"] for data in self._results if "text/markdown" in data)

    @property
    def tables(self) -> str:
        """The tables that it shows, as HTML."""
        return "\n".join(data["text/html"] for data in self._results if "text/html" in data)

    @property
    def figures(self) -> int:
        """The number of charts."""
        return sum("application/vnd.plotly.v1+json" in data for data in self._results)

    @property
    def _results(self) -> list[dict[str, Any]]:
        outputs = [output for cell in self.notebook.cells for output in cell.get("outputs", [])]
        return [output["data"] for output in outputs if "data" in output]


def execute(stack: Stack, database: str, environment: pytest.MonkeyPatch, schema: Path | None = None) -> Executed:
    """Run the notebook's cells with the read-only login of a database."""
    environment.setenv("DATABASE_URL", database)
    name = str(conninfo_to_dict(database)["dbname"])
    environment.setenv(READER_VARIABLE, make_conninfo(stack.environment[READER_VARIABLE], dbname=name))
    environment.setenv("PLOTLY_RENDERER", "plotly_mimetype")
    if schema is not None:
        environment.setenv("CHURN_SCHEMA", str(schema))
    notebook = nbformat.read(FOLDER / "churn.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}})
    return Executed(client.execute())


def seed(connection: psycopg.Connection, schema: CustomerSchema) -> None:
    """Add predictions of two weeks, a model with outcomes and drift, and the effect of calls."""
    ledger = FollowedLedger(connection)
    # Last week nobody in Germany was at risk; this week half of the customers there are.
    for country, risky in (("Germany", 20), ("Spain", 2)):
        first = {"Germany": 0, "Spain": 1_000}[country]
        ledger.commit([Scored(first + number, 0.2, 10 * DAY, country=country) for number in range(40)])
        ledger.commit(
            [
                Scored(first + number, 0.9 if number < risky else 0.1, 2 * DAY, balance=500.0, country=country)
                for number in range(40)
            ],
            explained=True,
        )
    connection.execute("update churn_predictions set prediction = (risk_score >= 0.5)::integer")
    SummariesDuty(SummariesConfig(schema=schema, control_share=0.1)).run(connection)
    model_versions.register(connection, version=1, uri="", run_id="", metrics={})
    model_versions.promote(connection, 1)
    today = datetime.now(UTC).date()
    connection.execute(
        "insert into live_performance (date, model_version, window_days, labelled, churned, roc_auc, roc_auc_error, "
        "expected_roc_auc, brier, ece, mean_score, churn_rate) "
        "values (%s, 1, 30, 900, 200, 0.7, 0.01, 0.86, 0.1, 0.02, 0.2, 0.22)",
        (today,),
    )
    connection.execute(
        "insert into drift_daily (date, model_version, feature, sampled, weight, counts, outside, psi, verdict, "
        "missing_rate, out_of_range_rate, version) "
        "values (%(day)s, 1, 'Tenure', 900, 1, '{}', 0, 0.4, 'far', 0, 0, 1), "
        "(%(day)s, 1, 'risk_score', 900, 1, '{}', 0, 0.01, 'stable', 0, 0, 1)",
        {"day": today},
    )
    connection.execute(
        "insert into retention_effect (date, month, segment, value, outcome_days, contact_entered, contact_open, "
        "contact_unknown, contact_stayed, contact_left, contact_contacted, contact_churn_rate, control_entered, "
        "control_open, control_unknown, control_stayed, control_left, control_contacted, control_churn_rate, "
        "reduction, reduction_low, reduction_high, conclusion, warnings) "
        "select %s, month, 'all', 'all', 60, 400, 0, 0, 320, 80, 380, 0.2, 100, 0, 0, 65, 35, 0, 0.35, 0.15, 0.05, "
        "0.26, 'Calls help.', '{}' from unnest('{all,2026-10}'::text[]) as m (month)",
        (today,),
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)

    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert [cell.id for cell in code if cell.outputs or cell.execution_count is not None] == []


def test_the_answers_are_those_of_the_data(
    stack: Stack, database: str, bank_schema: CustomerSchema, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        seed(connection, bank_schema)

    found = execute(stack, database, monkeypatch)

    assert "There are scores of 80 customers." in found.text
    assert "**geography: Germany** is worst. 25.0% of its 80 predictions" in found.text
    assert "The average is 13.8%." in found.text
    assert "22 of 80 customers are at high risk (27.5%). **11,000 EUR** is at risk (Balance)." in found.text
    assert "The churn rate is 27.5% this week and was 0.0% last week: **+27.5 points**" in found.text
    assert "The difference is clear." in found.text
    assert "Version 1 **has become worse**. Its ROC AUC is 0.700 on 900 known outcomes, and was 0.860" in found.text
    assert "1 of 2 features are far off, 0 are shifted. The largest difference is in Tenure." in found.text
    assert "**Calls help.** Of the contacts 20.0% left, of the controls 35.0%" in found.text
    assert "Balance of 125,510 euros, Active member: no" in found.tables
    assert found.figures == 6


@pytest.mark.slow
def test_it_runs_on_an_empty_database_of_any_customer_schema(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    database = copy_database(stack, new_template(stack, load_schema(SUBSCRIBERS)))

    found = execute(stack, database, monkeypatch, SUBSCRIBERS)

    assert "There are no predictions yet." in found.text
    assert "No segment has 30 predictions" in found.text
    assert "No model is champion yet." in found.text
    assert "The effect of calls has not been computed yet." in found.text
