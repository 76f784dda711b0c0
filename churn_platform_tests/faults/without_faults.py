"""A platform without faults, as it is used: nothing may alert an operator.

It has a champion that was trained in it, the usual traffic, and programs that ask the prediction API and the dashboard.
Prometheus scrapes it with the rules of `deploy/prometheus`. What it does by itself, such as a handover, happens too.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, LiteralString, Self

import httpx
import yaml

from churn_platform.local.environment import ARTIFACTS_VARIABLE
from churn_platform.observability.rules import ALERTS
from churn_platform.operations.verification.invariants import Invariant
from churn_platform.schema.generator import generate_customers, write_customers
from churn_platform.settings import PROJECT_ROOT
from churn_platform_tests.alerts.receivers import HttpReceiver
from churn_platform_tests.faults.audit import audit
from churn_platform_tests.faults.platform import TIMEOUT, FaultyPlatform, Load, faulty_platform
from churn_platform_tests.observability.servers import EVALUATION_SECONDS, Prometheus, prometheus
from churn_platform_tests.stream.streams import event
from churn_platform_tests.waiting import wait_until

RULES: Final = PROJECT_ROOT / "deploy" / "prometheus" / "rules.yml"
# A third of the interval in deploy/prometheus, so that short alarms are seen, with time for a busy machine to answer.
SCRAPE_INTERVAL: Final = "5s"
# Of which the champion is trained. Those of the traffic are others, of the same kind.
CUSTOMERS: Final = 5_000
SETTINGS: Final = {
    # A tenth of the default, so that drift and live performance are evaluated several times in ten minutes.
    "MONITORING_SECONDS": "60",
    # So that messages about customers are sent meanwhile, not once a day.
    "ALERT_MODE": "each",
}
REQUEST_PAUSE: Final = 0.1  # seconds between two requests: enough for a rate, and too few to slow down the stream

# What a platform does by itself, and whether it has done it since the traffic began.
_WORK: Final[dict[str, LiteralString]] = {
    "a batch was handed over": "select count(distinct run_id) > 1 from stream_batches where opened is not null",
    "metrics were computed": "select exists (select from churn_metrics_daily)",
    "drift was evaluated": "select exists (select from drift_hourly where verdict in ('stable', 'shifted', 'far'))",
    "live performance was evaluated": "select exists (select from live_performance where roc_auc is not null)",
    "a case was sent": "select exists (select from alert_outbox where kind = 'case' and status = 'sent')",
}
_CONDITIONS: Final = """
    select name || case when subject = '' then '' else ' (' || subject || ')' end,
        extract(epoch from coalesce(ended, clear_since, now()) - began)::double precision, details
    from operator_conditions order by began, id
"""


@dataclass
class Requests:
    """A program that asks the prediction API and the dashboard again and again, until the block ends.

    Attributes:
        addresses: of the platform's parts.
        answers: number of requests by their result, such as "api: 200".
    """

    addresses: dict[str, str]
    answers: Counter[str] = field(default_factory=Counter)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._ask, name="requests")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def failed(self) -> dict[str, int]:
        """The number of requests that had another result than 200, by result."""
        return {result: count for result, count in self.answers.items() if not result.endswith(" 200")}

    def _ask(self) -> None:
        number = 0
        with httpx.Client(trust_env=False, timeout=30, follow_redirects=True) as client:
            while not self._ended.wait(REQUEST_PAUSE):
                number += 1
                api = client.build_request(
                    "POST",
                    f"{self.addresses['api']}/v1/predictions",
                    params={"reasons": "true"} if number % 10 == 0 else {},
                    json=event(number),
                )
                self._send(client, "API", api)
                if number % 10 == 0:
                    self._send(client, "dashboard", client.build_request("GET", self.addresses["dashboard"]))

    def _send(self, client: httpx.Client, part: str, request: httpx.Request) -> None:
        try:
            answer = client.send(request)
            result = "200" if answer.status_code == 200 else f"{answer.status_code}, {answer.text[:200]}"
        except httpx.TransportError as error:
            result = repr(error)
        self.answers[f"{part}: {result}"] += 1


@dataclass(frozen=True)
class WatchedPlatform:
    """A platform without faults, and the Prometheus that has scraped it since this moment of the monotonic clock."""

    platform: FaultyPlatform
    server: Prometheus
    since: float

    def soak(self, *, seconds: float) -> list[Invariant]:
        """Let traffic flow for this time, and until the platform has done everything once. Then check everything.

        Raises:
            AssertionError: the platform has not done something in time.
        """
        platform = self.platform
        end = time.monotonic() + seconds
        with Requests(platform.stack.addresses) as requests:
            platform.traffic.start()
            wait_until(lambda: time.monotonic() >= end, seconds + 1, "the end of the soak test")
            for work, query in _WORK.items():
                wait_until(partial(platform.holds, query), TIMEOUT, work)
            platform.become_idle()
        return [
            *audit(platform),
            *self.no_alarms(),
            Invariant(
                "every request is answered",
                not requests.failed,
                f"{sum(requests.answers.values()):,} requests to the prediction API and the dashboard",
                [f"{count} times {result}" for result, count in requests.failed.items()],
            ),
        ]

    def no_alarms(self) -> list[Invariant]:
        """Check that nothing has alerted an operator since the platform was started."""
        return [self._no_alert(), self._no_condition(), self._is_watched()]

    def _no_alert(self) -> Invariant:
        """No alert of Prometheus fired at any time."""
        seconds = time.monotonic() - self.since
        firing = self._alerts("firing", seconds)
        summary = f"{len(firing)} of {len(ALERTS)} alerts of Prometheus fired in {seconds / 60:.1f} minutes"
        pending = ", ".join(self._alerts("pending", seconds))
        return Invariant("no alert fired", not firing, f"{summary}; pending for a moment: {pending or 'none'}", firing)

    def _alerts(self, state: str, seconds: float) -> list[str]:
        """Return the alerts that had this state at any time, with how long each had it."""
        found = self.server.query(f'count_over_time(ALERTS{{alertstate="{state}"}}[{int(seconds) + 1}s])')
        return [
            f"{each['metric']['alertname']} for {int(each['value'][1]) * EVALUATION_SECONDS:.0f} s" for each in found
        ]

    def _no_condition(self) -> Invariant:
        """The worker found no operator condition, also while the platform started."""
        found = [f"{name} for {seconds:.0f} s: {details}" for name, seconds, details in self.platform.rows(_CONDITIONS)]
        return Invariant("no operator condition", not found, f"{len(found)} operator conditions began", found)

    def _is_watched(self) -> Invariant:
        """Prometheus could have seen an alert: it reaches the worker and the API, and evaluates every rule."""
        problems = [
            *(f"the target {job} is {health}" for job, health in self.server.targets().items() if health != "up"),
            *(f"the rule {name}: {problem}" for name, problem in self.server.rule_problems().items()),
        ]
        return Invariant("Prometheus sees the platform", not problems, f"{len(problems)} problems", problems)


@contextmanager
def watched_platform(program: str, folder: Path, given: dict[str, str], load: Load) -> Iterator[WatchedPlatform]:
    """Run a separate platform in this folder, with a trained champion, and a Prometheus that scrapes it.

    Args:
        program: path of Prometheus.
        folder: traversable for other users, because under root PostgreSQL runs as another user.
        given: the environment to extend.
        load: the traffic.
    """
    customers = folder / "customers.csv"
    write_customers(generate_customers(CUSTOMERS, seed=load.seed + 1), customers)
    with ExitStack() as running:
        receiver = running.enter_context(HttpReceiver())
        settings = {
            **SETTINGS,
            ARTIFACTS_VARIABLE: str(folder / "artifacts"),
            "CHURN_RAW_CSV": str(customers),
            "ALERT_TARGETS": f"crm={receiver.url}",
            "OPERATOR_TARGETS": f"pager={receiver.url}",
        }
        platform = running.enter_context(faulty_platform(folder, given | settings, load, create_champion=_train))
        (folder / "prometheus").mkdir()
        ports = platform.stack.configuration.ports
        server = running.enter_context(
            prometheus(
                program,
                folder / "prometheus",
                rules=yaml.safe_load(RULES.read_text()),
                targets={
                    "churn-worker": f"127.0.0.1:{ports['worker-metrics']}",
                    "churn-api": f"127.0.0.1:{ports['api']}",
                },
                interval=SCRAPE_INTERVAL,
            )
        )
        yield WatchedPlatform(platform, server, time.monotonic())


def _train(platform: FaultyPlatform) -> None:
    """Train a champion as an operator does, and wait until the API has loaded it: it looks for one every second."""
    for job in ("data_preparation_job", "training_job"):
        platform.launch(job)
    ready = f"{platform.stack.addresses['api']}/readyz"
    wait_until(lambda: httpx.get(ready, trust_env=False).status_code == 200, TIMEOUT, "the API to be ready")
