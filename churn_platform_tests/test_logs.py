"""Logs as JSON: one object in a line, with the fields that programs search by."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from churn_platform.logs import JsonFormatter, with_fields
from churn_platform.orchestration.console_logger import CONFIG, NAME, console_logger
from churn_platform.settings import PROJECT_ROOT, settings
from churn_platform_tests.waiting import wait_until


def entries(text: str) -> list[dict[str, Any]]:
    """Parse a log; every line has to be an object."""
    return [json.loads(line) for line in text.splitlines()]


def test_a_message_has_its_time_in_utc_its_fields_and_its_error() -> None:
    logger, lines = logging.Logger("churn.worker"), list[str]()

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Lines()
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    with with_fields(batch="20261129T210000000Z", lane="0"):
        with with_fields(run="r1"):
            logger.info("Line one\nline %s “quoted”", 2)
        try:
            int("twelve")
        except ValueError:
            logger.exception("It failed.")
    logger.info("Later.")

    first, second, third = entries("\n".join(lines))
    assert first["message"] == "Line one\nline 2 “quoted”"
    assert first["time"].endswith("+00:00")
    assert (first["level"], first["logger"]) == ("info", "churn.worker")
    assert (first["batch"], first["lane"], first["run"]) == ("20261129T210000000Z", "0", "r1")
    assert "run" not in second
    assert second["error"].splitlines()[-1] == "ValueError: invalid literal for int() with base 10: 'twelve'"
    assert "batch" not in third


def test_a_run_names_its_batch_run_lane_and_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOG_FORMAT", "json")
    settings.cache_clear()

    @dg.op
    def score(context: dg.OpExecutionContext) -> None:
        with with_fields(batch="b1", lane="0"):
            context.log.info("12 predictions")

    @dg.job(logger_defs={NAME: console_logger}, config=CONFIG)
    def stream_job() -> None:
        score()

    result = stream_job.execute_in_process()
    monkeypatch.undo()
    settings.cache_clear()

    (entry,) = [each for each in entries(capsys.readouterr().err) if "12 predictions" in each["message"]]
    assert (entry["run"], entry["job"], entry["step"]) == (result.run_id, "stream_job", "score")
    assert (entry["batch"], entry["lane"]) == ("b1", "0")


def test_the_worker_writes_json_and_no_password(tmp_path: Path) -> None:
    variables = {
        "CHURN_LOCAL": str(tmp_path),
        "LOG_FORMAT": "json",
        "WORKER_METRICS_PORT": "0",
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "DATABASE_URL": "postgresql://nobody:s3cret@127.0.0.1:1/churn",
    }
    log = tmp_path / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            [sys.executable, "-m", "churn_platform.worker"],
            env={**os.environ, **variables},
            cwd=PROJECT_ROOT,
            stderr=output,
        ) as process,
    ):
        try:
            wait_until(lambda: "cases failed and is tried again" in log.read_text())
        finally:
            process.terminate()

    found = entries(log.read_text())
    assert found[0]["message"].startswith("Started with process id")
    assert {each["logger"] for each in found} <= {"churn.worker", "churn.alerts"}
    assert "s3cret" not in log.read_text()
