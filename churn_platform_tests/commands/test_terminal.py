"""Rules for all commands: help with an example, documented keys and exit codes, errors on one screen."""

import json
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from rich.console import Console
from rich.table import Table
from typer._click.exceptions import UsageError
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.commands.completion import Shell
from churn_platform.commands.program import BROKEN_PIPE, Program
from churn_platform.commands.stack import status_table
from churn_platform.commands.terminal import PIPED_COLUMNS, ExitCode, ProgressReporter, output
from churn_platform.database import alert_outbox, retention_cases
from churn_platform.local.environment import OWNER_VARIABLE
from churn_platform.local.stack import Stack
from churn_platform.local.status import PartStatus
from churn_platform.schema.generator import generate_customers
from churn_platform.settings import PROJECT_ROOT, load_settings, settings
from churn_platform.worker.cases import CasesDuty
from churn_platform.worker.process import cases_config
from churn_platform_tests.alerts.receivers import HttpReceiver
from churn_platform_tests.commands.tree import KEYS, PAGE, commands, parse
from churn_platform_tests.conftest import forget_settings
from churn_platform_tests.stream.streams import Stream, event
from churn_platform_tests.waiting import wait_until

CHURN = Path(sys.executable).with_name("churn")
COLOUR = re.compile(r"\x1b\[[0-9;]*?(3[0-8]|9[0-7])[0-9;]*m")
ONE_SCREEN = 24  # lines
STAGES = frozenset({"Applying migrations", "Reading Kafka", "Connecting to PostgreSQL", "Events"})  # of progress

runner = CliRunner(env={"COLUMNS": "200"})
by_words = {" ".join(path): command for path, command in commands()}


@pytest.mark.parametrize("words", by_words)
def test_every_command_has_help_with_a_valid_example(words: str) -> None:
    examples = re.findall(r"^Example: (.*)$", by_words[words].help or "", flags=re.MULTILINE)

    assert len(examples) == 1
    churn, *given = shlex.split(examples[0])
    assert churn == "churn"
    assert " ".join(parse(given)).startswith(words)
    shown = runner.invoke(app, [*words.split(), "--help"]).output
    assert examples[0] in " ".join(shown.split())


@pytest.mark.parametrize("words", [["dlq", "retri"], ["up", "--nope"], ["produce", "--rate", "fast"], ["logs", "zoo"]])
def test_an_invalid_example_is_detected(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(words)


def test_the_exit_codes_are_documented() -> None:
    documented = re.findall(r"^\| (\d) \| `(\w+)` \|", PAGE, flags=re.MULTILINE)

    assert [(int(code), name) for code, name in documented] == [(code.value, code.name) for code in ExitCode]


# JSON

GIVEN = {
    "up": ["--services-only"],
    "prepare": ["--logins", "--dagster-home", "{folder}/dagster"],
    "produce": ["--count", "5"],
    "clean": ["--dry-run"],
    "customer erase": ["1", "--dry-run"],
    "stream take-over": ["--yes", "nobody"],
    "dlq show": ["0:0"],
    "dlq retry": ["0:0", "--set", "Age=3", "--dry-run"],
    "data generate": ["--rows", "5", "--output", "{folder}/five.csv"],
    "outcomes send": ["--from", "{folder}/outcomes.json"],
    "schema check": [str(PROJECT_ROOT / "data/raw/ChurnModelling.csv")],
    "init": ["{folder}/new"],
    "cases show": ["1"],
    "cases assign": ["1", "--to", "ana"],
    "cases contact": ["1"],
    "cases close": ["1", "--as", "kept"],
    "cases undo": ["1"],
    "cases export": ["{folder}/cases.csv"],
    "cases block": ["1", "--reason", "asked in writing"],
    "cases unblock": ["1"],
    "alerts retry": ["1"],
    "alerts confirm": ["--target", "team"],
    "alerts dismiss": ["--target", "team"],
    "alerts test": ["team"],
    "backup": ["{folder}/backup"],
    "score": ["{folder}/customers.csv", "--output", "{folder}/scores.csv"],
}
# In test_model.py, because it needs two versions and a prepared split; in end_to_end/test_jobs.py, because they need
# Dagster; in test_backup_command.py, because nobody else may use the database.
ELSEWHERE = {"aws clean", "model compare", "model train", "data prepare", "restore"}
ENDS_WITH = {"clean": ExitCode.IN_USE, "dlq retry": ExitCode.CHECK_FAILED}


@pytest.fixture
def servers(stream: Stream) -> Stream:
    """Servers, and a stream that has one dead letter, and one case that a person has changed."""
    stream.send([b"bad"], partition=0)
    stream.stream(idle_seconds=0.5)
    stream.send([event(1)], partition=1)
    stream.stream(idle_seconds=0.5, high_risk_threshold=0.01)
    config = replace(cases_config(settings()), control_share=0.0)
    CasesDuty(replace(config, policy=replace(config.policy, threshold=0.01))).run(stream.connection)
    retention_cases.change(stream.connection, 1, status="assigned", owner="ben", actor="ben")
    return stream


@pytest.fixture
def target(servers: Stream, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A target of messages that is up, and one message of which it is not known whether the target has it."""
    alert_outbox.add(
        servers.connection, kind="operator", reference="1", payload={}, targets=["team"], doubt="No answer."
    )
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OPERATOR_TARGETS", f"team={receiver.url}")
        forget_settings()
        yield


def test_every_command_with_json_is_documented() -> None:
    with_json = {
        words
        for words, command in by_words.items()
        if any("--json" in option.opts and option.is_flag for option in command.params if hasattr(option, "is_flag"))
    }

    assert KEYS.keys() == with_json


@pytest.mark.slow
@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("words", [words for words in KEYS if words not in ELSEWHERE])
def test_json_has_the_documented_keys(
    stack: Stack, servers: Stream, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert servers.config.dsn != stack.addresses["postgres"]
    if words == "up":  # with the settings that it was started with
        monkeypatch.setenv("DATABASE_URL", stack.addresses["postgres"])
        for variable in ("PREDICTIONS_TOPIC", "STREAM_GROUP"):  # those of the fixture belong to its own database
            monkeypatch.setenv(variable, "of-this-stack")
    if words == "down":
        monkeypatch.setenv("CHURN_LOCAL", str(tmp_path))
    if words == "backup":
        name = conninfo_to_dict(servers.config.dsn)["dbname"]
        monkeypatch.setenv(OWNER_VARIABLE, make_conninfo(stack.owner_dsn, dbname=name))
    generate_customers(5, 3).dropna().to_csv(tmp_path / "customers.csv", index=False)
    (tmp_path / "outcomes.json").write_text('{"CustomerId": 1, "true_churn_label": 0}')
    given = [each.format(folder=tmp_path) for each in GIVEN.get(words, [])]

    outcome = runner.invoke(app, [*words.split(), *given, "--json"])

    assert outcome.exit_code == ENDS_WITH.get(words, ExitCode.DONE), outcome.output
    found = json.loads(outcome.stdout)
    assert set((found[0] if isinstance(found, list) else found).keys()) == set(KEYS[words])


# Errors


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Settings with addresses at which no server listens."""
    for name, value in {
        "CHURN_LOCAL": str(tmp_path / "local"),
        "DATABASE_URL": "postgresql://anna:secret@127.0.0.1:1/churn",
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DATABASE_OWNER_URL", raising=False)
    forget_settings()
    yield tmp_path
    monkeypatch.undo()
    forget_settings()


def refused(*words: str, code: ExitCode = ExitCode.FAILED) -> list[str]:
    """Return the lines of an error: there is no traceback and no other output.

    On a busy machine a stage may take so long that its progress comes first.
    """
    outcome = runner.invoke(app, words)
    assert outcome.exit_code == code, outcome.output
    assert isinstance(outcome.exception, SystemExit)
    assert outcome.stdout == ""
    lines = [line for line in outcome.stderr.splitlines() if line not in STAGES]
    assert 2 <= len(lines) <= ONE_SCREEN
    return lines


@pytest.mark.slow
@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    ("words", "problem", "remedy"),
    [
        (["stream", "pause"], "port 1 failed", "Is PostgreSQL up?"),
        (["dlq", "list"], "port 1 failed", "Is PostgreSQL up?"),
        (["db", "upgrade"], "The migrations of the database could not be read", "Is PostgreSQL up?"),
        (["verify"], "Kafka at 127.0.0.1:1 does not answer", "Check KAFKA_BOOTSTRAP_SERVERS"),
    ],
)
def test_without_a_server_the_problem_comes_before_the_remedy(words: list[str], problem: str, remedy: str) -> None:
    text = "\n".join(refused(*words))

    assert f"\n{remedy}" in text
    assert text.index(problem) < text.index(remedy)


@pytest.mark.parametrize("words", [["stream", "pause"], ["db", "upgrade"]])
def test_a_wrong_password_is_reported_and_not_shown(
    platform: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = conninfo_to_dict(platform)
    wrong = f"postgresql://{parts['user']}:wr0ng@{parts['host']}:{parts['port']}/{parts['dbname']}"
    for variable in ("DATABASE_URL", "DATABASE_OWNER_URL"):
        monkeypatch.setenv(variable, wrong)
    forget_settings()

    *problem, remedy = refused(*words)

    assert "password authentication failed" in " ".join(problem)
    assert remedy.startswith("Correct the user and the password in DATABASE_URL")
    assert "wr0ng" not in " ".join([*problem, remedy])


@pytest.mark.usefixtures("nowhere")
def test_a_missing_file_is_reported_with_a_remedy() -> None:
    problem, remedy = refused("produce", "--count", "1", "--from", "nowhere.csv")

    assert problem == "There is no customers file at nowhere.csv."
    assert "'churn data generate'" in remedy


def test_a_missing_event_file_is_reported_with_a_remedy(servers: Stream) -> None:
    assert servers.value("select count(*) from dead_letter_events") == 1

    problem, remedy = refused("dlq", "retry", "0:0", "--file", "nowhere.json")

    assert problem == "nowhere.json cannot be read: No such file or directory."
    assert "--file" in remedy


@pytest.mark.parametrize("number", ["1_0", "\u0663", "+3", "0", "9" * 5000])
@pytest.mark.parametrize("words", [["model", "promote"], ["model", "compare"], ["alerts", "retry"]])
def test_a_listed_number_has_ascii_digits_only(words: list[str], number: str) -> None:
    with pytest.raises(UsageError, match="expected a whole number from 1"):
        parse([*words, number])


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("place", ["0", "0:1_0", "0:\u0663", "0:-1"])
def test_a_place_of_a_dead_letter_has_ascii_digits_only(place: str) -> None:
    outcome = runner.invoke(app, ["dlq", "show", place])

    assert outcome.exit_code == ExitCode.USAGE
    assert "expected PARTITION:OFFSET" in outcome.stderr


@pytest.mark.parametrize("words", [["settings"], ["status"], ["produce", "--count", "1"], ["up"]])
def test_a_wrong_setting_is_reported_with_a_remedy(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_SECONDS", "soon")
    forget_settings()

    problem, remedy = refused(*words)

    assert problem.startswith("BATCH_SECONDS: Input should be a valid number")
    assert "churn settings --format markdown" in remedy


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("STREAM_START", "garbage", "earliest, latest or an ISO 8601 timestamp"),
        ("STREAM_START", "1969-12-31T23:59:59Z", "not before 1970"),
        ("EVENTS_TOPIC", "../x", "a name of a Kafka topic"),
        ("OUTCOMES_TOPIC", "..", "a name of a Kafka topic"),
        ("TRAINING_CRON", "every night", "five fields of a cron schedule"),
        ("DATA_PREPARATION_CRON", "61 * * * *", "five fields of a cron schedule"),
        ("SPARK_MASTER", "host:7077", "expected local[2], spark://host:7077, yarn or k8s://https://host:6443"),
        ("SPARK_PROPERTIES", "spark.executor.cores", "expected spark.name=value"),
        ("CALL_COST", "5", "KEPT_CUSTOMER_VALUE and CALL_SUCCESS_RATE not set"),
    ],
)
@pytest.mark.parametrize("words", [["status"], ["settings"], ["verify"], ["outcomes", "send"]])
def test_a_value_that_is_used_later_is_refused_by_every_command(
    words: list[str], variable: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    forget_settings()

    outcome = runner.invoke(app, words)

    assert outcome.exit_code == ExitCode.FAILED
    assert expected in outcome.stderr
    assert variable in outcome.stderr or variable == "CALL_COST"
    assert "Traceback" not in outcome.output


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("STREAM_START", "2026-11-24"),
        ("STREAM_START", "latest"),
        ("TRAINING_CRON", "*/5 1-3,7 L * mon-fri"),
        ("TRAINING_CRON", "@daily"),
        ("DATA_PREPARATION_CRON", "0 0 1 jan 1#2"),
    ],
)
def test_a_valid_value_is_accepted_unchanged(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)

    accepted = load_settings()

    assert value in (accepted.stream.start, accepted.schedules.training_cron, accepted.schedules.data_preparation_cron)


# Colours and progress


def on_a_terminal(*words: str, **environment: str) -> str:
    """Run a command on a terminal; return what it prints there."""
    ours, theirs = pty.openpty()
    given = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    command = subprocess.Popen(
        [CHURN, *words], stdout=theirs, stderr=theirs, env={**given, "TERM": "xterm-256color", **environment}
    )
    os.close(theirs)
    printed = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux raises at the end of the output; other systems return nothing
            break
        if not part:
            break
        printed += part
    os.close(ours)
    command.wait(60)
    return printed.decode()


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["settings"], ["produce"]])
def test_colours_are_for_terminals_without_no_color(words: list[str]) -> None:
    assert COLOUR.search(on_a_terminal(*words))
    assert not COLOUR.search(on_a_terminal(*words, NO_COLOR="1"))
    piped = subprocess.run([CHURN, *words], capture_output=True, text=True, check=False)
    assert "\x1b" not in piped.stdout + piped.stderr
    assert piped.stdout + piped.stderr


def test_without_a_terminal_a_long_stage_prints_one_line(tmp_path: Path) -> None:
    file = tmp_path / "stderr"
    with (
        file.open("w", buffering=1) as stream,
        ProgressReporter("Reading", console=Console(file=stream), quiet_seconds=0.01) as reporter,
    ):
        wait_until(lambda: "Reading" in file.read_text(), 30)
        reporter("Comparing", 1200)
        wait_until(lambda: "Comparing" in file.read_text(), 30)

    assert file.read_text() == "Reading\nComparing: 1,200\n"


def test_a_short_stage_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressReporter("Reading") as reporter:
        reporter("Comparing", 1)

    assert capsys.readouterr().err == ""


def test_a_table_in_a_pipe_is_not_cut_off(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)

    output.print(Table("x" * (PIPED_COLUMNS - 10), box=None))

    assert "x" * (PIPED_COLUMNS - 10) in capsys.readouterr().out


def test_an_address_is_whole_in_the_table_of_a_narrow_terminal() -> None:
    address = "http://127.0.0.1:9464/metrics"
    part = PartStatus("worker", "Dagster code server", "ready", address, 11133, 130.0, 43.7, log=None, problem=None)

    with output.capture() as capture:
        output.print(status_table([part]), width=72)

    assert address in capture.get()


# Completion


@pytest.mark.slow
def test_bash_completes_commands_options_and_parts(tmp_path: Path) -> None:
    script = tmp_path / "complete.sh"
    script.write_text(
        f"""
        PATH={CHURN.parent}:$PATH
        eval "$(churn completion bash)"
        complete_line() {{
            COMP_WORDS=($1) COMP_CWORD=$2 COMPREPLY=()
            _churn_completion churn
            echo "${{COMPREPLY[@]}}"
        }}
        complete_line 'churn st' 1
        complete_line 'churn dlq re' 2
        complete_line 'churn verify --js' 2
        complete_line 'churn logs dae' 2
        """
    )

    outcome = subprocess.run(["bash", script], capture_output=True, text=True, check=True)  # noqa: S607  # the one on PATH

    assert outcome.stdout.splitlines() == ["status stream", "retry", "--json", "daemon"]


@pytest.mark.parametrize("shell", Shell)
def test_each_shell_gets_its_completion_script(shell: Shell) -> None:
    outcome = runner.invoke(app, ["completion", shell])

    assert outcome.exit_code == 0
    assert f"_CHURN_COMPLETE=complete_{shell}" in outcome.stdout


# Output


@pytest.mark.slow
@pytest.mark.usefixtures("servers")
def test_an_ascii_output_does_not_change_the_exit_code() -> None:
    outcomes = {
        encoding: subprocess.run(
            [CHURN, "verify"],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "200"},
            check=False,
        )
        for encoding in ("ascii", "utf-8")
    }

    assert {outcome.returncode for outcome in outcomes.values()} == {ExitCode.DONE}
    invariants = outcomes["utf-8"].stdout.decode().count("✓")
    assert invariants
    assert re.findall(r"^ok ", outcomes["ascii"].stdout.decode("ascii"), flags=re.MULTILINE) == ["ok "] * invariants


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_the_same_in_every_encoding(encoding: str) -> None:
    outcome = subprocess.run(
        [CHURN, "settings", "--json"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, "CHURN_ENVIRONMENT_NAME": "münchen ✓"},
        check=True,
    )

    values = {each["variable"]: each["value"] for each in json.loads(outcome.stdout.decode(encoding))}
    assert values["CHURN_ENVIRONMENT_NAME"] == "münchen ✓"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    ["settings", "settings --json", "settings --format markdown", "completion bash"]
    + [f"{group} --help".strip() for group in ("", "stream", "dlq list", "verify")],
)
def test_a_closed_pipe_of_the_output_has_its_own_exit_code(words: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)

    outcome = subprocess.run([CHURN, *words.split()], stdout=writing, stderr=subprocess.PIPE, check=False)

    os.close(writing)
    assert (outcome.returncode, outcome.stderr) == (BROKEN_PIPE, b"")


@pytest.mark.slow
def test_a_closed_pipe_of_the_errors_has_its_own_exit_code() -> None:
    reading, writing = os.pipe()
    os.close(reading)

    outcome = subprocess.run([CHURN, "nonsense"], stdout=subprocess.PIPE, stderr=writing, check=False)

    os.close(writing)
    assert (outcome.returncode, outcome.stdout) == (BROKEN_PIPE, b"")


def test_an_unexpected_error_has_the_exit_code_failed() -> None:
    faulty = typer.Typer(cls=Program)

    @faulty.command()
    def one() -> None:
        raise ValueError("nobody expected this")

    @faulty.command()
    def other() -> None:
        """Turn the program into a group of commands."""

    assert runner.invoke(faulty, ["one"]).exit_code == ExitCode.FAILED


def test_make_lists_its_targets_without_escapes_in_a_pipe() -> None:
    listed = subprocess.run(["make"], cwd=PROJECT_ROOT, capture_output=True, check=True).stdout  # noqa: S607  found on the PATH

    assert b"Start Kafka, PostgreSQL, MLflow, Dagster, the worker, the dashboard" in listed
    assert b"\x1b" not in listed
