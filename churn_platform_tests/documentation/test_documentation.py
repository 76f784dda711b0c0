"""The documentation pages: their links exist, tests run their commands, and their code works."""

import re
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from typer.core import TyperGroup

from churn_platform.features import binning, columns
from churn_platform.orchestration.assets import preparation
from churn_platform.orchestration.checks import frames, preparation_checks
from churn_platform.settings import PROJECT_ROOT
from churn_platform_tests.commands.tree import parse, root
from churn_platform_tests.documentation.examples import name_of
from churn_platform_tests.documentation.pages import PAGES, Fence, anchors, fences, links, words_of
from churn_platform_tests.features.customers import cleaned

TESTS = PROJECT_ROOT / "churn_platform_tests"
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (PROJECT_ROOT / "Makefile").read_text(), flags=re.MULTILINE))
EXTENDING = PROJECT_ROOT / "docs" / "how-to" / "extend-the-platform.md"
LANGUAGES = {"sh", "console", "sql", "dotenv", "text", "python", "json", "yaml", "toml"} | {
    "{toctree}",
    "{include}",
    "{eval-rst}",
}
SHELL = [fence for page in PAGES for fence in fences(page) if fence.language == "sh"]

# The test that runs each command of a `sh` block, possibly with other options. test_examples.py runs the commands of
# `console` blocks, which show output.
RUN_BY = {
    "churn aws clean": "ecs/test_aws_clean.py::test_everything_of_a_deployment_is_deleted_and_nothing_of_another",
    "churn backup": "commands/test_backup_command.py::test_a_backup_is_written_restored_and_recovered",
    "churn clean": "operations/cleanup/test_cleanup.py::test_what_the_platform_created_is_deleted_and_the_rest_is_kept",
    "churn customer erase": "operations/erasure/test_erase.py::"
    "test_nothing_is_left_of_a_customer_who_was_in_every_place",
    "churn customer erase-again": "operations/erasure/test_erase.py::test_a_restored_backup_is_erased_again",
    "churn customer export": "operations/erasure/test_erase.py::test_an_export_to_standard_output_is_json",
    "churn dashboard add-user": "dashboard/test_commands.py::test_users_come_and_go_while_the_dashboard_runs",
    "churn dashboard users": "dashboard/test_commands.py::test_users_come_and_go_while_the_dashboard_runs",
    "churn data generate": "commands/test_data_command.py::test_a_file_has_the_customers_of_its_seed",
    "churn db upgrade": "commands/test_terminal.py::test_json_has_the_documented_keys",
    "churn dlq list": "commands/test_operating.py::test_dead_letters_are_listed_shown_corrected_and_resolved",
    "churn down": "commands/test_terminal.py::test_json_has_the_documented_keys",
    "churn model canary": "commands/test_model.py::test_a_version_is_tried_as_a_shadow_and_as_a_canary",
    "churn model shadow": "commands/test_model.py::test_a_version_is_tried_as_a_shadow_and_as_a_canary",
    "churn model compare": "commands/test_model.py::test_versions_are_compared_on_the_same_rows",
    "churn model list": "commands/test_model.py::test_versions_are_promoted_listed_and_rolled_back",
    "churn model promote": "commands/test_model.py::test_versions_are_promoted_listed_and_rolled_back",
    "churn model rollback": "commands/test_model.py::test_versions_are_promoted_listed_and_rolled_back",
    "churn outcomes send": "commands/test_outcomes_command.py::test_one_outcome_is_sent_for_a_customer_or_an_event",
    "churn produce": "commands/test_terminal.py::test_json_has_the_documented_keys",
    "churn recover": "commands/test_backup_command.py::test_a_backup_is_written_restored_and_recovered",
    "churn restore": "commands/test_backup_command.py::test_a_backup_is_written_restored_and_recovered",
    "churn status": "commands/test_operating.py::test_status_shows_the_stream",
    "churn up": "commands/test_terminal.py::test_json_has_the_documented_keys",
    "churn verify": "commands/test_terminal.py::test_json_has_the_documented_keys",
    "dagster-daemon": "commands/test_dagster_by_hand.py::test_your_own_dagster_serves_the_platform",
    "dagster-webserver": "commands/test_dagster_by_hand.py::test_your_own_dagster_serves_the_platform",
    "dg": "commands/test_dagster_by_hand.py::test_the_development_server_serves_the_platform",
    "./run_local.sh": "image/test_run_local.py::test_the_first_run_generates_passwords_and_builds_the_image",
    "psql": "commands/test_dagster_by_hand.py::test_the_query_in_the_readme_works",
    # these load the addresses of .local/env into the shell, and set a variable
    "set": "commands/test_dagster_by_hand.py::test_the_query_in_the_readme_works",
    "export": "commands/test_dagster_by_hand.py::test_your_own_dagster_serves_the_platform",
    "eval": "commands/test_terminal.py::test_bash_completes_commands_options_and_parts",
    "kafka-console-producer.sh": "stream/test_java_clients.py::"
    "test_events_of_the_console_producer_are_read_with_keys_and_headers",
    "churn cases export": "commands/test_cases_command.py::test_the_list_is_exported_and_no_note_becomes_a_formula",
    "churn cases list": "commands/test_cases_command.py::test_the_list_names_customers_and_reasons",
    "churn alerts list": "commands/test_alerts_command.py::test_the_list_shows_what_waits_failed_or_is_in_doubt",
    "churn alerts confirm": "commands/test_alerts_command.py::"
    "test_messages_are_retried_confirmed_and_dismissed_by_number",
    "churn alerts retry": "commands/test_alerts_command.py::test_a_target_is_retried_without_what_is_in_doubt",
    "churn alerts dismiss": "commands/test_alerts_command.py::"
    "test_messages_are_retried_confirmed_and_dismissed_by_number",
    "churn alerts conditions": "commands/test_alerts_command.py::"
    "test_conditions_are_listed_and_an_open_one_is_the_exit_code",
    "churn alerts test": "commands/test_alerts_command.py::test_a_test_message_shows_which_targets_work",
    "churn cases block": "commands/test_cases_command.py::"
    "test_a_customer_who_does_not_want_calls_is_blocked_with_the_platform_s_login",
    "churn cases unblock": "commands/test_cases_command.py::"
    "test_a_customer_who_does_not_want_calls_is_blocked_with_the_platform_s_login",
    "churn serve add-token": "api/test_tokens.py::test_the_commands_add_list_and_remove_tokens",
    "churn serve remove-token": "api/test_tokens.py::test_the_commands_add_list_and_remove_tokens",
    "churn serve tokens": "api/test_tokens.py::test_the_commands_add_list_and_remove_tokens",
    "curl": "api/test_predictions.py::test_the_request_of_the_guide_is_answered",
    "make bench-model": "benchmarks/test_the_rest.py::test_the_model_is_measured_on_any_customers_file",
}
_UNTESTED_PAGE = (PROJECT_ROOT / "docs" / "reference" / "untested-commands.md").read_text()
UNTESTED = tuple(
    command
    for row in re.findall(r"^\| (`.*?) \|", _UNTESTED_PAGE, flags=re.MULTILINE)
    for command in re.findall(r"`([^`]+)`", row)
)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_exists(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_has_a_known_language(page: Path) -> None:
    assert {fence.language for fence in fences(page)} <= LANGUAGES


@pytest.mark.parametrize("fence", SHELL, ids=lambda fence: fence.name)
def test_every_command_is_run_by_a_test_or_listed_as_untested(fence: Fence) -> None:
    for line in fence.lines:
        words = words_of(line)
        if words[0] == "make":
            assert words[1] in TARGETS, line
        if f"{' '.join(words)} ".startswith(tuple(f"{command} " for command in UNTESTED)):
            continue
        if words[0] == "churn":
            run_by = RUN_BY[" ".join(["churn", *parse(words[1:])])]
        else:
            run_by = RUN_BY[" ".join(words[:2]) if words[0] == "make" else words[0].rstrip(";")]
        assert _exists(run_by), run_by


def test_every_listed_command_is_in_the_documentation() -> None:
    shell = {" ".join(["churn", *parse(words[1:])]) for words in _typed() if words[0] == "churn"}
    other = {" ".join(words[:2]) if words[0] == "make" else words[0].rstrip(";") for words in _typed()}

    assert RUN_BY.keys() - shell - other == set()


def _typed() -> list[list[str]]:
    return [words_of(line) for fence in SHELL for line in fence.lines]


def _exists(run_by: str) -> bool:
    file, _, test = run_by.partition("::")
    return f"\ndef {test}(" in (TESTS / file).read_text()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_sentences_exist(page: Path) -> None:
    for command in re.findall(r"`((?:churn|make) [^`]+)`", page.read_text()):
        first, *words = [word for word in command.split() if not word.startswith(("<", "-", "..."))]
        if first == "make":
            assert set(words) & TARGETS or not words, command
        else:
            node: object = root()
            while words and isinstance(node, TyperGroup):
                if node.invoke_without_command and words[0] not in node.commands and "--" in command:
                    break  # the value of an option
                assert words[0] in node.commands, command
                node = node.commands[words.pop(0)]


# docs/how-to/extend-the-platform.md


@pytest.fixture(scope="module")
def example() -> dict[str, object]:
    """Return the names that the blocks define. Each block can use the names of the module that it belongs in."""
    known: dict[str, object] = {"np": np, "pd": pd, "dg": dg}
    for module in (columns, binning, preparation, frames, preparation_checks):
        known |= vars(module)
    for fence in fences(EXTENDING):
        if not fence.body.startswith("frame_checks("):
            exec(compile(fence.body, fence.name, "exec"), known)  # noqa: S102  the project's own page
    return known


def test_the_asset_of_the_page_is_materialized(example: dict[str, object]) -> None:
    churn_by_country = example["churn_by_country"]
    assert isinstance(churn_by_country, dg.AssetsDefinition)

    result = churn_by_country(cleaned(300))

    assert isinstance(result, dg.MaterializeResult)
    assert sorted(result.value["Geography"]) == ["France", "Germany", "Spain"]
    assert result.value["customers"].sum() == len(cleaned(300))
    assert result.value["churn_rate"].between(0, 1).all()


def test_the_check_of_the_page_reports_violations(example: dict[str, object]) -> None:
    application = next(fence.body for fence in fences(EXTENDING) if fence.body.startswith("frame_checks("))
    assert isinstance(eval(application, example), dg.AssetChecksDefinition)  # noqa: S307  the project's own page

    rule = example["smallest_group_rule"]("Geography", 2)  # type: ignore[operator]  # a function, by the page
    assert rule.violations(pd.DataFrame({"Geography": ["Spain", "Spain", "France"]})) == ["France is in 1 rows"]


def test_the_feature_of_the_page_is_computed(example: dict[str, object]) -> None:
    computed = example["add_signs"]({"Balance": np.array([0.0, 12.5])}, ["Balance"])  # type: ignore[operator]  # a function

    assert computed["BalanceIsPositive"].tolist() == [0, 1]
