"""A soak test: traffic for minutes, a random fault every few seconds, and an audit at the end.

Example: python -m churn_platform_tests.faults.soak --minutes 10 --rate 2000 --every 20 --seed 1 --json soak.json

With --no-faults nothing is broken, and the test also fails if anything alerts an operator: see without_faults.py.
"""

import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from churn_platform.local.environment import OWNER_VARIABLE, SERVERS
from churn_platform.operations.verification.invariants import Invariant
from churn_platform_tests.faults.audit import audit
from churn_platform_tests.faults.catalogue import CATALOGUE, Fault
from churn_platform_tests.faults.platform import FaultyPlatform, Load, faulty_platform
from churn_platform_tests.faults.recovery import Recovery, inject_and_recover
from churn_platform_tests.faults.traffic import Sent
from churn_platform_tests.faults.without_faults import watched_platform
from churn_platform_tests.observability.servers import BinaryMissingError, find_binary
from churn_platform_tests.waiting import wait_until

# A soak test of at least this length has time for faults that last a minute.
MINUTES_FOR_LONG_FAULTS: Final = 20
# Events per second. Without faults, 500 leave time for the programs that watch and use the platform.
RATE: Final = 2000
RATE_WITHOUT_FAULTS: Final = 500

console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="Duration of the fault injection, or of the traffic.")] = 10,
    rate: Annotated[
        float | None,
        typer.Option(min=1, help=f"Events per second. [default: {RATE}; without faults {RATE_WITHOUT_FAULTS}]"),
    ] = None,
    every: Annotated[float, typer.Option(min=0, help="Seconds between the starts of two faults.")] = 20,
    seed: Annotated[int | None, typer.Option(help="Makes the choice of faults repeatable.")] = None,
    report: Annotated[Path | None, typer.Option("--json", help="File for the results.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Fault to choose from; can be repeated.")] = None,
    no_faults: Annotated[
        bool, typer.Option("--no-faults", help="Inject none, and fail if an alert fires. Needs Prometheus.")
    ] = False,
) -> None:
    """Inject random faults under load, then audit. Exit code 1 if an invariant does not hold."""
    unknown = set(only or ()) - CATALOGUE.keys()
    if unknown:
        _refuse(f"No such fault: {', '.join(sorted(unknown))}. Expected one of: {', '.join(CATALOGUE)}.")
    if only and no_faults:
        _refuse("--only chooses faults, and --no-faults injects none. Give one of them.")
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    rate = rate or (RATE_WITHOUT_FAULTS if no_faults else RATE)
    faults = f"a fault every {every:g} s" if not no_faults else "no faults"
    console.print(f"{minutes:g} minutes, {rate:g} events per second, {faults}, seed {seed}.")
    folder = Path(tempfile.mkdtemp(prefix="churn-soak-"))
    folder.chmod(0o711)  # under root, PostgreSQL runs as another user, who must traverse it
    given = {name: value for name, value in os.environ.items() if name not in {*SERVERS.values(), OWNER_VARIABLE}}
    load = Load(rate=rate, seed=seed)
    if no_faults:
        result = _without_faults(folder, given, load, minutes=minutes)
    else:
        result = _with_faults(folder, given, load, minutes=minutes, every=every, only=only)
        _show(result.recoveries)
    _show_result(result)
    if report is not None:
        results = {
            "minutes": minutes,
            "rate": rate,
            "every": None if no_faults else every,
            "seed": seed,
            "sent": result.sent.messages,
            "recoveries": [asdict(recovery) for recovery in result.recoveries],
            "invariants": [asdict(each) for each in result.invariants],
        }
        report.write_text(json.dumps(results, indent=2))
    if not all(each.holds for each in result.invariants):
        console.print(f"The platform's logs are in {folder / 'local' / 'logs'}", style="red")
        raise typer.Exit(1)
    shutil.rmtree(folder)


@dataclass(frozen=True)
class Result:
    """What a soak test has sent, what it has recovered from, and the invariants at its end."""

    sent: Sent
    invariants: list[Invariant]
    recoveries: list[Recovery] = field(default_factory=list)


def _refuse(problem: str) -> NoReturn:
    """End with the exit code of invalid arguments."""
    console.print(problem, style="red")
    raise typer.Exit(2)


def _with_faults(
    folder: Path, given: dict[str, str], load: Load, *, minutes: float, every: float, only: list[str] | None
) -> Result:
    """Inject faults for these minutes, one every so many seconds."""
    faults = [
        fault
        for fault in CATALOGUE.values()
        if (fault.name in only if only else not fault.long or minutes >= MINUTES_FOR_LONG_FAULTS)
    ]
    recoveries: list[Recovery] = []
    with faulty_platform(folder, given, load) as platform:
        try:
            for recovery in _soak(platform, faults, random.Random(load.seed), seconds=minutes * 60, every=every):  # noqa: S311  a choice of faults, no secret
                recoveries.append(recovery)
                console.print(_line(recovery))
            platform.become_idle()
            invariants = audit(platform)
        except AssertionError as error:  # something did not recover in time
            invariants = [_not_in_time("recovery", error)]
        return Result(platform.traffic.sent, invariants, recoveries)


def _without_faults(folder: Path, given: dict[str, str], load: Load, *, minutes: float) -> Result:
    """Let traffic flow for these minutes, watched by Prometheus."""
    try:
        program = find_binary("prometheus")
    except BinaryMissingError as error:
        _refuse(str(error))
    with watched_platform(program, folder, given, load) as watched:
        try:
            invariants = watched.soak(seconds=minutes * 60)
        except AssertionError as error:
            invariants = [_not_in_time("the platform does its work", error), *watched.no_alarms()]
        return Result(watched.platform.traffic.sent, invariants)


def _not_in_time(name: str, error: AssertionError) -> Invariant:
    return Invariant(name, holds=False, summary=str(error))


def _soak(
    platform: FaultyPlatform, faults: list[Fault], chance: random.Random, *, seconds: float, every: float
) -> Iterator[Recovery]:
    """Inject one fault after the other until the time is up. Each is injected once before any is repeated."""
    platform.traffic.start()
    platform.live()
    end, pending = time.monotonic() + seconds, list[Fault]()
    while time.monotonic() < end:
        turn = min(time.monotonic() + every, end)
        pending = pending or chance.sample(faults, len(faults))
        yield inject_and_recover(platform, pending.pop())
        wait_until(partial(_is_over, turn), every + 1, "the next fault's turn")


def _is_over(moment: float) -> bool:
    """Return whether a moment of the monotonic clock is over."""
    return time.monotonic() >= moment


def _line(recovery: Recovery) -> str:
    return (
        f"{recovery.title}: lasted {recovery.outage:.1f} s, next row after {recovery.first_row:.2f} s, "
        f"caught up after {recovery.caught_up:.1f} s."
    )


def _show(recoveries: list[Recovery]) -> None:
    table = Table("Fault", title="Recoveries, in seconds")
    for column in ("times", "cause lasted", "next row after, median", "longest", "caught up, longest"):
        table.add_column(column, justify="right")
    by_title: dict[str, list[Recovery]] = {}
    for recovery in recoveries:
        by_title.setdefault(recovery.title, []).append(recovery)
    for title, group in sorted(by_title.items()):
        rows = sorted(recovery.first_row for recovery in group)
        table.add_row(
            title,
            str(len(group)),
            f"{max(recovery.outage for recovery in group):.1f}",
            f"{rows[len(rows) // 2]:.2f}",
            f"{rows[-1]:.2f}",
            f"{max(recovery.caught_up for recovery in group):.1f}",
        )
    console.print(table)


def _show_result(result: Result) -> None:
    for invariant in result.invariants:
        mark, style = ("✓", "green") if invariant.holds else ("✗", "red")
        console.print(Text.assemble((f"{mark} ", style), f"{invariant.name}: {invariant.summary}"))
        for violation in invariant.violations:
            console.print(Text(f"    {violation}", style="red"))
    sent = result.sent
    console.print(
        f"{sent.messages:,} events sent: {sent.predictions:,} predictions, {sent.dead_letters:,} dead letters, "
        f"{sent.duplicates:,} duplicates; {sent.kinds['late']:,} were late."
    )


if __name__ == "__main__":
    typer.run(main)
