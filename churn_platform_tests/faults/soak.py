"""A soak test: traffic for minutes, a random fault every few seconds, and an audit at the end.

Example: python -m churn_platform_tests.faults.soak --minutes 10 --rate 2000 --every 20 --seed 1 --json soak.json
"""

import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Final

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
from churn_platform_tests.waiting import wait_until

# A soak test of at least this length has time for faults that last a minute.
MINUTES_FOR_LONG_FAULTS: Final = 20

console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="Duration of the fault injection.")] = 10,
    rate: Annotated[float, typer.Option(min=1, help="Events per second.")] = 2000,
    every: Annotated[float, typer.Option(min=0, help="Seconds between the starts of two faults.")] = 20,
    seed: Annotated[int | None, typer.Option(help="Makes the choice of faults repeatable.")] = None,
    report: Annotated[Path | None, typer.Option("--json", help="File for the results.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Fault to choose from; can be repeated.")] = None,
) -> None:
    """Inject random faults under load, then audit. Exit code 1 if an invariant does not hold."""
    unknown = set(only or ()) - CATALOGUE.keys()
    if unknown:
        console.print(
            f"No such fault: {', '.join(sorted(unknown))}. Expected one of: {', '.join(CATALOGUE)}.", style="red"
        )
        raise typer.Exit(2)
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    faults = [
        fault
        for fault in CATALOGUE.values()
        if (fault.name in only if only else not fault.long or minutes >= MINUTES_FOR_LONG_FAULTS)
    ]
    console.print(f"{minutes:g} minutes, {rate:g} events per second, a fault every {every:g} s, seed {seed}.")
    folder = Path(tempfile.mkdtemp(prefix="churn-soak-"))
    folder.chmod(0o711)  # under root, PostgreSQL runs as another user, who must traverse it
    given = {name: value for name, value in os.environ.items() if name not in {*SERVERS.values(), OWNER_VARIABLE}}
    recoveries: list[Recovery] = []
    with faulty_platform(folder, given, Load(rate=rate, seed=seed)) as platform:
        try:
            for recovery in _soak(platform, faults, random.Random(seed), seconds=minutes * 60, every=every):  # noqa: S311  a choice of faults, no secret
                recoveries.append(recovery)
                console.print(_line(recovery))
            platform.become_idle()
            invariants = audit(platform)
        except AssertionError as error:  # something did not recover in time
            invariants = [Invariant("recovery", holds=False, summary=str(error))]
        sent = platform.traffic.sent
    _show(recoveries, invariants)
    console.print(
        f"{sent.messages:,} events sent: {sent.predictions:,} predictions, {sent.dead_letters:,} dead letters, "
        f"{sent.duplicates:,} duplicates; {sent.kinds['late']:,} were late."
    )
    if report is not None:
        results = {
            "minutes": minutes,
            "rate": rate,
            "every": every,
            "seed": seed,
            "sent": sent.messages,
            "recoveries": [asdict(recovery) for recovery in recoveries],
            "invariants": [asdict(each) for each in invariants],
        }
        report.write_text(json.dumps(results, indent=2))
    if not all(each.holds for each in invariants):
        console.print(f"The platform's logs are in {folder / 'local' / 'logs'}", style="red")
        raise typer.Exit(1)
    shutil.rmtree(folder)


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


def _show(recoveries: list[Recovery], invariants: list[Invariant]) -> None:
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
    for invariant in invariants:
        mark, style = ("✓", "green") if invariant.holds else ("✗", "red")
        console.print(Text.assemble((f"{mark} ", style), f"{invariant.name}: {invariant.summary}"))
        for violation in invariant.violations:
            console.print(Text(f"    {violation}", style="red"))


if __name__ == "__main__":
    typer.run(main)
