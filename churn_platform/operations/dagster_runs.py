"""Runs of a running Dagster, through the GraphQL API of its web server: launch a job, follow a run, read its output.

It works wherever the web server is reached, and needs neither Dagster's instance nor its slow import. For assets, jobs
and sensors see `orchestration/`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import httpx

from churn_platform.errors import PlatformError

LOCATION: Final = {"repositoryLocationName": "churn_platform", "repositoryName": "__repository__"}
ENDED: Final = frozenset({"SUCCESS", "FAILURE", "CANCELED"})
SUCCESS: Final = "SUCCESS"
WILL_RETRY_TAG: Final = "dagster/will_retry"
RETRIED_AS_TAG: Final = "dagster/auto_retry_run_id"
# The web server asks the code server, which may be busy starting a run.
REQUEST_SECONDS: Final = 60.0
EVENTS_IN_ANSWER: Final = 500
OUTPUT_BYTES_IN_ANSWER: Final = 1_000_000
OUTPUT_FOLDER: Final = "compute_logs"

# What Python puts before the name of an error's class.
_MODULE: Final = re.compile(r"^(?:\w+\.)+(?=\w+:)")
_LAUNCH: Final = """
mutation ($parameters: ExecutionParams!) {
  launchRun(executionParams: $parameters) {
    ... on LaunchRunSuccess { run { runId } }
    ... on Error { message }
  }
}
"""
_RUN: Final = """
query ($id: ID!, $cursor: String, $limit: Int) {
  runOrError(runId: $id) {
    ... on Run { runId jobName status startTime endTime tags { key value } }
    ... on Error { message }
  }
  logsForRun(runId: $id, afterCursor: $cursor, limit: $limit) {
    ... on EventConnection {
      cursor
      hasMore
      events {
        __typename
        ... on MessageEvent { message timestamp level stepKey }
        ... on ErrorEvent { error { message cause { message } } }
        ... on MaterializationEvent { assetKey { path } partition }
        ... on LogsCapturedEvent { fileKey }
      }
    }
    ... on Error { message }
  }
}
"""
_OUTPUT: Final = """
query ($key: [String!]!, $cursor: String, $limit: Int) {
  capturedLogs(logKey: $key, cursor: $cursor, limit: $limit) { cursor stdout stderr }
}
"""


class DagsterUnreachableError(PlatformError):
    """Dagster's web server does not answer, or answers something else."""


class RunNotLaunchedError(PlatformError):
    """Dagster refuses to launch a job."""


class UnknownRunError(PlatformError):
    """Dagster has no such run."""


@dataclass(frozen=True)
class RunEvent:
    """An event of a run.

    Attributes:
        kind: as Dagster's API names it, such as ExecutionStepStartEvent.
        at: when it happened.
        level: of its message, such as INFO.
        step: that it belongs to; empty for the run.
        message: without a line break at its end.
        error: that Dagster reports, with its class; empty if there is none.
        asset: that was materialized; empty if none was.
        partition: of the asset; empty if it has none.
    """

    kind: str
    at: datetime
    level: str
    step: str
    message: str
    error: str = ""
    asset: str = ""
    partition: str = ""


@dataclass(frozen=True)
class RunState:
    """A run as of now, and its events since the last request.

    Attributes:
        run_id: of the run.
        job: its name.
        status: as Dagster names it, such as STARTED.
        seconds: from its start to its end, or to now; 0 if it has not started.
        events: in their order.
        has_more: whether more events exist already.
        will_retry: whether Dagster runs it again, because its process was lost.
        retried_as: id of the run that does; empty if it is not known yet.
    """

    run_id: str
    job: str
    status: str
    seconds: float
    events: Sequence[RunEvent]
    has_more: bool
    will_retry: bool = False
    retried_as: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether the run has ended, well or not, and all of its events are known."""
        return self.status in ENDED and not self.has_more


@dataclass
class _Output:
    """How far the output of a process was read. `key`: its address in Dagster's compute logs."""

    key: Sequence[str]
    cursor: str | None = None


@dataclass
class FollowedRun:
    """A run whose events and output are read bit by bit. It remembers how far it has read."""

    run_id: str
    _dagster: "Dagster"
    _cursor: str | None = None
    _outputs: dict[str, _Output] = field(default_factory=dict)

    def read(self) -> RunState:
        """Return the state of the run, and its events since the last call.

        Raises:
            UnknownRunError: Dagster has no such run.
            DagsterUnreachableError: the web server does not answer.
        """
        answer = self._dagster.ask(_RUN, id=self.run_id, cursor=self._cursor, limit=EVENTS_IN_ANSWER)
        run, log = answer["runOrError"], answer["logsForRun"]
        if "runId" not in run or "events" not in log:
            raise UnknownRunError(
                f"Dagster has no run {self.run_id}.",
                remedy="The page Runs of Dagster's UI lists them. Runs are deleted after RETENTION_DAYS.",
            )
        self._cursor = log["cursor"]
        for event in log["events"]:
            if file := event.get("fileKey"):
                self._outputs.setdefault(file, _Output([self.run_id, OUTPUT_FOLDER, file]))
        started, ended = run["startTime"], run["endTime"]
        now = datetime.now(UTC).timestamp()
        tags = {tag["key"]: tag["value"] for tag in run["tags"]}
        return RunState(
            run_id=run["runId"],
            job=run["jobName"],
            status=run["status"],
            seconds=max(0.0, (ended or now) - started) if started else 0.0,
            events=[_event(each) for each in log["events"]],
            has_more=log["hasMore"],
            will_retry=tags.get(WILL_RETRY_TAG) == "true",
            retried_as=tags.get(RETRIED_AS_TAG, ""),
        )

    def read_output(self) -> Iterator[tuple[str, str]]:
        """Yield what the run's processes have written since the last call, as the name of the stream and the text.

        Raises:
            DagsterUnreachableError: the web server does not answer.
        """
        for output in self._outputs.values():
            answer = self._dagster.ask(
                _OUTPUT, key=list(output.key), cursor=output.cursor, limit=OUTPUT_BYTES_IN_ANSWER
            )["capturedLogs"]
            output.cursor = answer["cursor"]
            for name in ("stdout", "stderr"):
                if answer[name]:
                    yield name, answer[name]


class Dagster:
    """The web server of a running Dagster."""

    def __init__(self, url: str) -> None:
        """Connect to nothing yet.

        Args:
            url: http://host:port, or https://host.
        """
        self._url = url.rstrip("/")

    def launch(self, job: str, tags: Mapping[str, str] | None = None) -> FollowedRun:
        """Put a run of a job into the queue.

        Raises:
            RunNotLaunchedError: there is no such job, or the web server is read-only.
            DagsterUnreachableError: the web server does not answer.
        """
        answer = self.ask(
            _LAUNCH,
            parameters={
                "selector": {**LOCATION, "jobName": job},
                "runConfigData": {},
                "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in (tags or {}).items()]},
            },
        )["launchRun"]
        if "run" not in answer:
            raise RunNotLaunchedError(
                f"Dagster did not launch {job}: {answer.get('message', 'no reason given')}",
                remedy="Check on the page Deployment of Dagster's UI that the code location is loaded and that the "
                "server is not read-only.",
            )
        return self.follow(answer["run"]["runId"])

    def follow(self, run_id: str) -> FollowedRun:
        """Return a run, from its first event."""
        return FollowedRun(run_id, self)

    def run_url(self, run_id: str) -> str:
        """Return the address of a run's page."""
        return f"{self._url}/runs/{run_id}"

    def ask(self, query: str, **variables: object) -> dict[str, Any]:
        """Return the answer to a GraphQL query.

        Raises:
            DagsterUnreachableError: the web server does not answer, or answers something else.
        """
        try:
            response = httpx.post(
                f"{self._url}/graphql",
                json={"query": query, "variables": variables},
                timeout=REQUEST_SECONDS,
                trust_env=False,
            )
            answer = response.raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise DagsterUnreachableError(
                f"Dagster's web server at {self._url} does not answer: {error or type(error).__name__}.",
                remedy="Start it with 'churn up', or set DAGSTER_URL to the address of yours.",
            ) from error
        if "errors" in answer:
            message = "; ".join(str(each.get("message")) for each in answer["errors"])
            raise DagsterUnreachableError(
                f"Dagster's web server at {self._url} does not understand a request: {message}.",
                remedy="Run 'churn' and the web server with the same version of Dagster.",
            )
        data: dict[str, Any] = answer["data"]
        return data


def _event(found: Mapping[str, Any]) -> RunEvent:
    return RunEvent(
        kind=found["__typename"],
        at=datetime.fromtimestamp(float(found["timestamp"]) / 1000, UTC),
        level=found["level"],
        step=found["stepKey"] or "",
        message=found["message"].rstrip(),
        error=_cause(found.get("error")),
        asset="/".join((found.get("assetKey") or {}).get("path", ())),
        partition=found.get("partition") or "",
    )


def _cause(error: Mapping[str, Any] | None) -> str:
    """Return the error that Dagster has wrapped in one of its own, with its class; empty if there is none."""
    if error is None:
        return ""
    text = str((error["cause"] or error)["message"]).strip()
    return _MODULE.sub("", text)
