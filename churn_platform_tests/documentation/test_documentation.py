"""The pages: their links lead somewhere, their commands are run by a test, their code works."""

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
from churn_platform_tests.documentation.pages import PAGES, Fence, anchors, fences, links, words_of
from churn_platform_tests.features.customers import cleaned

TESTS = PROJECT_ROOT / "churn_platform_tests"
WORKFLOW = (PROJECT_ROOT / ".github" / "workflows" / "ci.yml").read_text()
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (PROJECT_ROOT / "Makefile").read_text(), flags=re.MULTILINE))
LANGUAGES = {"sh", "console", "sql", "dotenv", "text", "python", "json", "yaml", "mermaid"}
SHELL = [fence for page in PAGES for fence in fences(page) if fence.language in ("sh", "console")]

# Which test runs a command; a test that runs it with other options runs it, too.
RUN_BY = {
    "churn clean": "operations/cleanup/test_cleanup.py::test_what_the_platform_made_goes_and_what_others_have_stays",
    "churn completion": "commands/test_terminal.py::test_bash_completes_commands_options_and_parts",
    "churn data generate": "commands/test_data_command.py::test_it_writes_the_customers_of_the_seed",
    "churn db upgrade": "commands/test_terminal.py::test_json_has_the_keys_of_the_page",
    "churn dlq list": "commands/test_operating.py::test_dead_letters_are_listed_shown_corrected_and_resolved",
    "churn dlq retry": "commands/test_operating.py::test_dead_letters_are_listed_shown_corrected_and_resolved",
    "churn dlq show": "commands/test_operating.py::test_dead_letters_are_listed_shown_corrected_and_resolved",
    "churn model compare": "commands/test_model.py::test_versions_are_compared_on_the_same_rows",
    "churn model list": "commands/test_model.py::test_versions_are_promoted_listed_and_rolled_back",
    "churn model promote": "commands/test_model.py::test_versions_are_promoted_listed_and_rolled_back",
    "churn model rollback": "commands/test_model.py::test_versions_are_promoted_listed_and_rolled_back",
    "churn outcomes reset": "commands/test_outcomes_command.py::test_lost_outcomes_are_accepted_after_the_topics_name",
    "churn outcomes send": "commands/test_outcomes_command.py::"
    "test_outcomes_are_simulated_for_those_who_were_predicted_and_the_topic_is_recorded",
    "churn outcomes skip": "commands/test_outcomes_command.py::test_one_outcome_is_skipped_after_the_topics_name",
    "churn produce": "commands/test_terminal.py::test_a_missing_file_is_named_with_the_way_out",
    "churn status": "commands/test_operating.py::test_status_shows_the_stream",
    "churn stream pause": "commands/test_operating.py::test_pause_and_resume_say_what_happens",
    "churn stream reset": "commands/test_operating.py::test_reset_asks_for_the_topics_name_and_says_what_it_drops",
    "churn stream resume": "commands/test_operating.py::test_pause_and_resume_say_what_happens",
    "churn stream take-over": "commands/test_take_over.py::"
    "test_a_second_checkout_is_refused_and_takes_over_by_its_own_command",
    "churn up": "commands/test_terminal.py::test_json_has_the_keys_of_the_page",
    "churn verify": "commands/test_operating.py::test_verify_ends_with_1_when_a_law_is_broken",
    "dagster-daemon": "commands/test_dagster_by_hand.py::test_a_dagster_of_your_own_serves_the_platform",
    "dagster-webserver": "commands/test_dagster_by_hand.py::test_a_dagster_of_your_own_serves_the_platform",
    "dg": "commands/test_dagster_by_hand.py::test_the_development_server_serves_the_platform",
    "docker": "image/test_run_local.py::test_a_rebuild_can_be_forced",
    "./run_local.sh": "image/test_run_local.py::test_the_first_run_generates_passwords_and_builds_the_image",
    "psql": "commands/test_dagster_by_hand.py::test_the_dashboard_of_the_readme_is_read",
    # what makes the addresses of .local/env the shell's, and sets a variable
    "set": "commands/test_dagster_by_hand.py::test_the_dashboard_of_the_readme_is_read",
    "export": "commands/test_dagster_by_hand.py::test_a_dagster_of_your_own_serves_the_platform",
    "eval": "commands/test_terminal.py::test_bash_completes_commands_options_and_parts",
    "kafka-console-producer.sh": "stream/test_java_clients.py::"
    "test_events_of_the_console_producer_are_read_with_keys_and_headers",
}
# What takes minutes is run by a job of its own, or in small by a test.
MAKE = {
    "demo": "make demo",
    "test": ".ci/run",
    "bench-model": "benchmarks/test_the_rest.py::test_the_model_is_measured_on_any_customers_file",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_holds(page: Path) -> None:
    assert {fence.language for fence in fences(page)} <= LANGUAGES


@pytest.mark.parametrize("fence", SHELL, ids=lambda fence: fence.name)
def test_every_command_is_run_by_a_test(fence: Fence) -> None:
    for line in fence.lines:
        words = words_of(line)
        if words[0] == "make":
            assert words[1] in TARGETS, line
            run_by = MAKE[words[1]]
        elif words[0] == "churn":
            run_by = RUN_BY[" ".join(["churn", *parse(words[1:])])]
        else:
            run_by = RUN_BY[words[0].rstrip(";")]
        assert _exists(run_by), run_by


def _exists(run_by: str) -> bool:
    file, _, test = run_by.partition("::")
    if not test:
        return run_by in WORKFLOW or (TESTS / file).exists()
    return f"\ndef {test}(" in (TESTS / file).read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_within_a_sentence_exist(page: Path) -> None:
    for command in re.findall(r"`((?:churn|make) [^`]+)`", page.read_text()):
        first, *words = [word for word in command.split() if not word.startswith(("<", "-", "..."))]
        if first == "make":
            assert set(words) & TARGETS or not words, command
        else:
            node: object = root()
            while words and isinstance(node, TyperGroup):
                assert words[0] in node.commands, command
                node = node.commands[words.pop(0)]


# docs/extending.md


@pytest.fixture(scope="module")
def example() -> dict[str, object]:
    """What its blocks define, each within the module that it goes into."""
    known: dict[str, object] = {"np": np, "pd": pd, "dg": dg}
    for module in (columns, binning, preparation, frames, preparation_checks):
        known |= vars(module)
    for fence in fences(PROJECT_ROOT / "docs" / "extending.md"):
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


def test_the_check_of_the_page_says_what_it_saw(example: dict[str, object]) -> None:
    application = next(
        fence.body for fence in fences(PROJECT_ROOT / "docs" / "extending.md") if fence.body.startswith("frame_checks(")
    )
    assert isinstance(eval(application, example), dg.AssetChecksDefinition)  # noqa: S307  the project's own page

    rule = example["smallest_group_rule"]("Geography", 2)  # type: ignore[operator]  # a function, by the page
    assert rule.violations(pd.DataFrame({"Geography": ["Spain", "Spain", "France"]})) == ["France is in 1 rows"]


def test_the_feature_of_the_page_is_made(example: dict[str, object]) -> None:
    made = example["add_has_balance"]({"Balance": np.array([0.0, 12.5])})  # type: ignore[operator]  # a function

    assert made["HasBalance"].tolist() == [0, 1]
