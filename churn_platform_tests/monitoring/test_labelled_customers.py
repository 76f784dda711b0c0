"""Customers whose outcome is known, with the features of the time of their prediction."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from churn_platform.database import stored_outcomes
from churn_platform.modeling.exceptions import TrainingDataError
from churn_platform.modeling.outcome_rows import WEIGHT
from churn_platform.monitoring import labelled_customers
from churn_platform.monitoring.labelled_customers import LabelledCustomers
from churn_platform_tests.features.customers import BANK
from churn_platform_tests.worker.ledger import Scored
from churn_platform_tests.worker.teams import Team, new_team

DAY = timedelta(days=1)
DAYS = 30


@pytest.fixture
def team(database: str) -> Team:
    """A team without a control group that has called nobody."""
    return new_team(psycopg.connect(database, autocommit=True), BANK, cases_per_day=100)


def store(team: Team, *outcomes: tuple[int, bool, timedelta]) -> None:
    """Store outcomes: the customer, whether the customer left, and how long ago that was known."""
    with team.connection.transaction():
        stored_outcomes.insert_all(
            team.connection,
            (
                ("topic", 0, number, None, customer, int(left), datetime.now(UTC) - ago)
                for number, (customer, left, ago) in enumerate(outcomes)
            ),
        )


def load(team: Team, *, control_share: float = 0.1) -> LabelledCustomers:
    """Return the labelled customers of now."""
    return labelled_customers.load(
        team.connection, BANK, outcome_days=DAYS, control_share=control_share, now=datetime.now(UTC)
    )


def labels(found: LabelledCustomers) -> dict[int, int]:
    """Return the target of each customer."""
    return dict(zip(found.customers["CustomerId"].tolist(), found.customers["Exited"].tolist(), strict=True))


def test_a_customer_is_there_once_as_first_predicted(team: Team) -> None:
    team.ledger.commit(
        [
            Scored(1, 0.2, ago=60 * DAY, age=40.0),
            Scored(1, 0.3, ago=50 * DAY, age=41.0),
            Scored(2, 0.2, ago=40 * DAY, age=None, country="Spain"),
        ]
    )
    store(team, (1, True, 35 * DAY), (2, False, DAY))

    found = load(team)

    wanted = ["CustomerId", "Geography", "Exited", WEIGHT]
    assert found.customers[wanted].to_numpy().tolist() == [[1, "Germany", 1, 1.0], [2, "Spain", 0, 1.0]]
    assert found.customers["Age"].tolist()[0] == 40
    assert found.customers["Age"].isna().tolist() == [False, True]
    assert [str(found.customers[name].dtype) for name in BANK.event_fields] == [
        BANK.by_name[name].dtype for name in BANK.event_fields
    ]


def test_an_outcome_counts_only_if_it_is_known_for_the_time_after_the_prediction(team: Team) -> None:
    team.ledger.commit([Scored(each, 0.2, ago=40 * DAY) for each in range(1, 7)] + [Scored(7, 0.2, ago=20 * DAY)])
    store(
        team,
        (1, True, 39 * DAY),
        (2, True, 5 * DAY),  # late churn
        (3, True, 41 * DAY),  # before the prediction
        (4, False, 30 * DAY),  # nothing is known of the rest of the time
        (5, False, 10 * DAY),
        (7, True, 10 * DAY),  # its time is not over
    )

    found = load(team)

    assert labels(found) == {1: 1, 2: 0, 5: 0}
    assert found.unknown == 2
    assert found.contacted == 0


def test_a_label_of_the_predicted_event_is_no_outcome_of_the_time_after_it(team: Team) -> None:
    team.ledger.commit([Scored(1, 0.2, ago=40 * DAY)])
    team.connection.execute("update churn_predictions set true_churn_label = 1")

    assert labels(load(team)) == {}


def test_customers_of_a_call_list_are_left_out_and_controls_stand_for_them(team: Team) -> None:
    team.restart(control_share=0.4)
    team.commit(*(Scored(each, 0.8) for each in range(1, 61)))
    team.ledger.commit([Scored(each, 0.2) for each in range(61, 81)])
    arms = dict(team.rows("select customer_id, arm from retention_list_entries"))
    assert set(arms.values()) == {"contact", "control"}
    team.wait(days=DAYS + 5)
    team.connection.execute("update retention_list_entries set entered_at = entered_at - %s", (DAY * (DAYS + 5),))
    store(team, *((each, each % 2 == 0, DAY * (DAYS if each % 2 == 0 else 0)) for each in range(1, 81)))

    found = load(team, control_share=0.4)

    controls = [customer for customer, arm in arms.items() if arm == "control"]
    assert sorted(labels(found)) == sorted([*controls, *range(61, 81)])
    weights = dict(zip(found.customers["CustomerId"], found.customers[WEIGHT], strict=True))
    assert {weights[each] for each in controls} == {2.5}
    assert {weights[each] for each in range(61, 81)} == {1.0}
    assert found.contacted == len(arms) - len(controls)
    with pytest.raises(TrainingDataError, match="CONTROL_SHARE is 0"):
        load(team, control_share=0)


def test_a_customer_who_was_called_without_a_list_is_left_out(team: Team) -> None:
    team.commit(Scored(1, 0.8))
    team.connection.execute("delete from retention_list_entries")
    team.set_status(1, "contacted")
    team.wait(days=DAYS + 5)
    store(team, (1, False, DAY))

    assert load(team).contacted == 1
    assert labels(load(team)) == {}
