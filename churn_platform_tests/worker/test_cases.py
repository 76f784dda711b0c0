"""The duty that keeps cases: when they open, follow scores, close, and who is on the list."""

from datetime import timedelta
from zoneinfo import ZoneInfo

import psycopg
import pytest

from churn_platform.database import customer_file_scores, retention_cases, retention_keys, summary, worker_positions
from churn_platform.database.exceptions import LedgerConflictError
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.database.retention_cases import Told
from churn_platform.retention.arm import arm_of
from churn_platform.worker.cases import NAME
from churn_platform_tests.worker.ledger import Scored
from churn_platform_tests.worker.teams import Team

MINUTE = timedelta(minutes=1)


def test_a_high_risk_score_opens_one_case_for_a_customer(team: Team) -> None:
    team.commit(Scored(1, 0.8, ago=2 * MINUTE), Scored(1, 0.75, ago=MINUTE), Scored(2, 0.69))

    assert team.cases() == [(1, "open", 0.75, 0.75)]


def test_a_case_follows_the_latest_score_and_a_late_event_changes_nothing(team: Team) -> None:
    team.commit(Scored(1, 0.8, ago=5 * MINUTE))
    team.commit(Scored(1, 0.9, ago=4 * MINUTE))
    team.commit(Scored(1, 0.72, ago=3 * MINUTE), Scored(1, 0.99, ago=9 * MINUTE))
    assert team.cases() == [(1, "open", 0.72, 0.9)]

    team.commit(Scored(1, 0.6, ago=2 * MINUTE))  # below the threshold, but not well below

    assert team.cases() == [(1, "open", 0.6, 0.9)]


def test_of_two_events_with_the_same_time_the_one_with_the_greater_offset_is_the_latest(team: Team) -> None:
    team.commit(Scored(1, 0.8), Scored(1, 0.9))

    assert team.cases() == [(1, "open", 0.9, 0.9)]


def test_a_high_score_that_is_not_the_latest_opens_no_case(team: Team) -> None:
    team.commit(Scored(1, 0.2))

    team.commit(Scored(1, 0.95, ago=MINUTE))

    assert team.cases() == []


def test_a_case_closes_when_the_risk_falls_well_below_the_threshold_and_opens_again_when_it_rises(team: Team) -> None:
    team.commit(Scored(1, 0.8, ago=3 * MINUTE))
    team.commit(Scored(1, 0.3, ago=2 * MINUTE))

    assert team.rows("select status, reason, closed_at is not null from retention_cases") == [
        ("expired", "The risk fell to 30%.", True)
    ]
    team.commit(Scored(1, 0.8))
    assert [status for _, status, *_ in team.cases()] == ["expired", "open"]


def test_an_assigned_case_closes_when_the_risk_falls_too(team: Team) -> None:
    team.commit(Scored(1, 0.8, ago=MINUTE))
    team.set_status(1, "assigned", owner="ana")

    team.commit(Scored(1, 0.3))

    assert [status for _, status, *_ in team.cases()] == ["expired"]


def test_commits_of_several_batches_are_followed_exactly_once(team: Team) -> None:
    for number in range(3):
        team.ledger.commit([Scored(10 * number + each, 0.8) for each in range(5)])
        team.ledger.next_batch()

    team.follow()
    team.follow()

    assert len(team.cases()) == 15
    assert worker_positions.behind(team.connection, NAME) == []
    assert team.rows("select count(*) from retention_case_history") == [(15,)]


def test_a_position_that_another_worker_has_moved_is_not_moved_again(team: Team) -> None:
    team.commit(Scored(1, 0.2))
    team.ledger.commit([Scored(2, 0.9)])
    behind = worker_positions.behind(team.connection, NAME)

    with psycopg.connect(team.connection.info.dsn, password=team.connection.info.password) as other:
        worker_positions.advance(other, NAME, behind)
        other.commit()
        with pytest.raises(LedgerConflictError, match="moved 0 of 1 positions"):
            worker_positions.advance(team.connection, NAME, behind)

    assert team.cases() == []


def test_the_first_start_gives_customers_who_are_at_risk_a_case_and_others_none(team: Team) -> None:
    team.ledger.commit([Scored(1, 0.9, ago=2 * MINUTE), Scored(2, 0.9, ago=2 * MINUTE), Scored(3, 0.1)])
    team.ledger.commit([Scored(2, 0.1, ago=MINUTE)])

    team.follow()

    assert [customer for customer, *_ in team.cases()] == [1]


def test_a_replay_touches_no_case(team: Team) -> None:
    team.commit(Scored(1, 0.8), Scored(2, 0.3))
    before = team.rows("select * from retention_cases")

    team.connection.execute("update churn_predictions set risk_score = 1 - risk_score")
    team.follow()

    assert team.rows("select * from retention_cases") == before


def test_nobody_is_called_again_within_the_cool_off(team: Team) -> None:
    team.commit(Scored(1, 0.9, ago=MINUTE))
    team.set_status(1, "contacted")
    team.set_status(1, "lost")
    team.commit(Scored(1, 0.95))
    assert len(team.cases()) == 1

    team.wait(days=31)
    team.commit(Scored(1, 0.9))

    assert [status for _, status, *_ in team.cases()] == ["lost", "open"]


@pytest.mark.parametrize(("control_share", "arm"), [(0.0, "contact"), (1.0, "control")])
def test_a_customer_who_left_gets_no_case_within_the_cool_off(team: Team, control_share: float, arm: str) -> None:
    team.restart(control_share=control_share)
    team.commit(Scored(1, 0.9, ago=MINUTE))
    left = Told(customer_id=1, event_id=None, churned=1, at=team.now())
    retention_cases.close_by_outcomes(team.connection, team.config.schema, [left])

    team.commit(Scored(1, 0.95))
    assert team.rows("select arm, status from retention_cases") == [(arm, "lost")]

    team.wait(days=31)
    team.commit(Scored(1, 0.9))
    assert [status for _, status, *_ in team.cases()] == ["lost", "open"]


def test_a_called_customer_keeps_the_case_until_the_outcome_or_the_cool_off_is_over(team: Team) -> None:
    team.commit(Scored(1, 0.9, ago=MINUTE))
    team.set_status(1, "contacted")
    team.commit(Scored(1, 0.1))
    assert team.cases() == [(1, "contacted", 0.1, 0.9)]

    team.wait(days=31)
    team.follow()

    assert team.rows("select status, reason from retention_cases") == [
        ("expired", "No outcome within 30 days after the call.")
    ]


def test_a_case_without_a_call_expires_with_the_customer_s_last_event(team: Team) -> None:
    team.commit(Scored(1, 0.9))
    team.wait(days=15)

    team.follow()

    assert team.rows("select status, reason from retention_cases") == [
        ("expired", "The customer's latest event is older than 14 days.")
    ]


def test_a_customer_who_does_not_want_to_be_called_gets_no_case(team: Team) -> None:
    team.commit(Scored(1, 0.9, ago=MINUTE), Scored(2, 0.9, ago=MINUTE))

    retention_cases.block_contact(team.connection, 1, reason="asked in writing", actor="ana")
    team.commit(Scored(1, 0.95))

    assert sorted(case[:2] for case in team.cases()) == [(1, "dismissed"), (2, "open")]
    retention_cases.allow_contact(team.connection, 1)
    team.commit(Scored(1, 0.95))
    assert [status for customer, status, *_ in team.cases() if customer == 1] == ["dismissed", "open"]


def test_reasons_come_as_sentences_once_the_stream_has_stored_them(team: Team) -> None:
    team.commit(Scored(1, 0.9))
    assert team.rows("select reasons from retention_cases") == [(None,)]

    team.ledger.explain()
    team.follow()
    assert team.rows("select reasons from retention_cases") == [(["Balance of 125,510 euros raises the risk"],)]

    team.commit(Scored(2, 0.9), explained=True)
    assert team.rows("select reasons from v_call_list where customer_id = 2") == [
        (["Balance of 125,510 euros raises the risk", "Active member: no, which raises the risk"],)
    ]


def test_a_case_has_the_money_the_priority_the_segments_and_the_link_of_its_customer(team: Team) -> None:
    team.restart(customer_url="https://crm.example.com/c/{customer_id}?tab=calls")
    team.commit(Scored(7, 0.8, balance=2_000.0, age=65.0, country="Spain"))

    assert team.rows("select money_at_risk, round(priority), segments, link from retention_cases") == [
        (
            2_000.0,
            1_600.0,
            {"age": "60 to 120", "gender": "Male", "geography": "Spain", "num_of_products": "1"},
            "https://crm.example.com/c/7?tab=calls",
        )
    ]
    team.restart(customer_url="https://other.example.com/{customer_id}")
    team.follow()
    assert team.rows("select link from v_call_list") == [("https://other.example.com/7",)]


def test_the_list_is_the_best_of_as_many_as_the_team_can_call(team: Team) -> None:
    team.restart(cases_per_day=3)
    team.commit(*(Scored(number, 0.8, balance=100.0 * number) for number in range(1, 7)))
    assert team.called() == [6, 5, 4]

    team.commit(Scored(9, 0.9, balance=500.0))

    assert team.called() == [6, 9, 5]
    assert team.rows("select customer_id, rank, arm from retention_list_entries order by entry") == [
        (6, 1, "contact"),
        (5, 2, "contact"),
        (4, 3, "contact"),
        (9, 2, "contact"),
    ]


def test_a_called_customer_leaves_the_list_whose_capacity_is_that_of_a_day(team: Team) -> None:
    team.restart(cases_per_day=3)
    team.commit(*(Scored(number, 0.8, balance=100.0 * number) for number in range(1, 7)))
    team.set_status(6, "contacted")
    assert team.called() == [5, 4]  # at once, not with the worker's next run

    team.follow()
    assert team.called() == [5, 4]

    team.set_status(5, "dismissed")
    team.follow()
    assert team.called() == [4, 3]

    team.wait(days=1)
    team.follow()
    assert team.called() == [4, 3, 2]


def test_the_day_of_the_list_is_that_of_the_team(team: Team) -> None:
    team.restart(timezone=ZoneInfo("Pacific/Kiritimati"))  # fourteen hours ahead of UTC
    team.commit(Scored(1, 0.9))
    there = team.now().astimezone(ZoneInfo("Pacific/Kiritimati")).date()
    assert team.rows("select list_day from v_call_list") == [(there,)]

    team.restart(timezone=ZoneInfo("Pacific/Niue"))  # eleven hours behind UTC
    team.follow()

    assert team.rows("select list_day from v_call_list") == [(team.now().astimezone(ZoneInfo("Pacific/Niue")).date(),)]


def test_customers_of_the_control_group_are_not_listed_but_enter_alike(team: Team) -> None:
    team.restart(control_share=0.5, cases_per_day=10)
    team.commit(*(Scored(number, 0.8, balance=10.0 * number) for number in range(1, 61)))

    key = retention_keys.ensure_key(team.connection)
    arms = {number: arm_of(number, key=key, control_share=0.5) for number in range(1, 61)}
    assert dict(team.rows("select customer_id, arm from retention_cases")) == arms
    assert team.rows("select distinct control_share from retention_cases") == [(0.5,)]
    contacts = [number for number in range(60, 0, -1) if arms[number] == "contact"][:10]
    assert team.called() == contacts
    entered = team.rows("select customer_id, arm from retention_list_entries")
    assert {customer for customer, arm in entered if arm == "control"} == {
        number for number in range(contacts[-1], 61) if arms[number] == "control"
    }
    assert team.rows("select count(*) from retention_cases where arm = 'control' and list_rank is not null") == [(0,)]


def test_controls_do_not_count_as_cases_for_the_retention_team(team: Team) -> None:
    team.restart(control_share=0.5)
    team.commit(*(Scored(number, 0.9) for number in range(20)))
    team.set_status(0, "lost")

    arms = dict(team.rows("select arm, count(*) from retention_cases where closed_at is null group by arm"))

    assert sorted(arms) == ["contact", "control"]
    assert summary.count_open_cases(team.connection) == arms["contact"]


def test_a_customer_enters_once_in_a_cool_off(team: Team) -> None:
    team.commit(Scored(1, 0.9))
    for _ in range(3):
        team.wait(days=1)
        team.follow()
    assert team.rows("select count(*) from retention_list_entries") == [(1,)]

    team.wait(days=30)
    team.commit(Scored(1, 0.9))

    assert team.rows("select count(*) from retention_list_entries") == [(2,)]


def test_the_history_names_who_changed_what(team: Team) -> None:
    team.commit(Scored(1, 0.9, ago=MINUTE))
    with retention_cases.acting(team.connection, "ana"):
        team.set_status(1, "assigned", owner="ana")
    team.commit(Scored(1, 0.1))

    assert team.rows("select changed_by, login, status, owner, reason from retention_case_history order by change") == [
        ("worker", "churn_platform", "open", None, None),
        ("ana", "churn_platform", "assigned", "ana", None),
        ("worker", "churn_platform", "expired", "ana", "The risk fell to 10%."),
    ]


def test_what_the_worker_found_is_recorded_for_dagster(team: Team) -> None:
    team.commit(Scored(1, 0.9), Scored(2, 0.8))
    team.follow()

    found = dict(team.rows("select asset, metadata from worker_observations"))
    assert found["retention_cases"] == {"open_cases": 2, "open_contact": 2}
    assert found["call_list"]["listed"] == 2


def test_a_long_backlog_is_followed_in_several_runs(team: Team) -> None:
    team.commit(Scored(99, 0.1))
    team.ledger.commit([Scored(number, 0.9) for number in range(10)])
    team.restart(most_offsets=4)

    assert [team.duty.run(team.connection) for _ in range(4)] == [True, True, False, False]
    assert len(team.cases()) == 10


def score_file(team: Team, *scored: Scored) -> None:
    """Store the customers at risk of a scored file, and let the duty follow."""
    rows = [
        customer_file_scores.FileScore(
            each.customer,
            each.risk,
            [{"feature": "Balance", "value": each.balance, "contribution": 1.2}],
            {
                "CreditScore": 600,
                "Geography": each.country,
                "Gender": "Male",
                "Age": each.age,
                "Tenure": 3,
                "Balance": each.balance,
                "NumOfProducts": 1,
                "HasCrCard": 1,
                "IsActiveMember": 1,
                "EstimatedSalary": 0.0,
            },
        )
        for each in scored
    ]
    customer_file_scores.replace_all(
        team.connection, prediction_table(team.config.schema), rows, model_version=3, scored_at=team.now()
    )
    team.follow()


def test_a_scored_file_opens_cases_only_if_the_setting_says_so(team: Team) -> None:
    score_file(team, Scored(1, 0.8))
    assert team.cases() == []

    team.restart(cases_from="both")
    team.commit(Scored(2, 0.9))

    assert {customer for customer, *_ in team.cases()} == {1, 2}
    assert team.rows(
        "select model_version, reasons[1], segments ->> 'geography' from retention_cases where customer_id = 1"
    ) == [(3, "Balance of 1,000 euros raises the risk", "Germany")]
    assert 1 in team.called()


def test_with_cases_from_the_file_the_stream_opens_none_and_still_updates_them(team: Team) -> None:
    team.restart(cases_from="file")
    score_file(team, Scored(1, 0.8))

    team.commit(Scored(1, 0.9), Scored(2, 0.9))
    assert team.cases() == [(1, "open", 0.9, 0.9)]

    team.commit(Scored(1, 0.1))
    assert [status for _, status, *_ in team.cases()] == ["expired"]


def test_a_file_opens_a_case_once_until_it_is_scored_again(team: Team) -> None:
    team.restart(cases_from="file")
    score_file(team, Scored(1, 0.8))
    team.set_status(1, "dismissed")

    team.restart()
    team.follow()
    assert [status for _, status, *_ in team.cases()] == ["dismissed"]

    score_file(team, Scored(1, 0.85))
    assert [status for _, status, *_ in team.cases()] == ["dismissed", "open"]


def test_a_later_event_of_the_customer_is_worth_more_than_the_file(team: Team) -> None:
    team.restart(cases_from="both")
    team.later = -MINUTE  # the file was scored a minute ago
    team.ledger.commit([Scored(1, 0.1)])

    score_file(team, Scored(1, 0.8))

    assert team.cases() == []
