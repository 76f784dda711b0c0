"""`churn verify`: check every invariant of the stream."""

import time
from dataclasses import asdict

import typer
from rich.text import Text

from churn_platform.commands.terminal import AsJson, ExitCode, ProgressReporter, emit, output, report_errors


def verify(as_json: AsJson = False) -> None:
    """Check Kafka and PostgreSQL against each other: no event or outcome lost or counted twice, and every sum right.

    It changes nothing and may run while the stream is live. The exit code is 1 if an invariant does not hold, and 4 if
    it cannot be checked.

    Example: churn verify --json
    """
    from datetime import UTC, datetime

    from churn_platform.monitoring import pruning
    from churn_platform.operations.verification.outcomes import outcomes
    from churn_platform.operations.verification.verify import check_invariants
    from churn_platform.settings import settings
    from churn_platform.stream.config import StreamConfig

    began = time.monotonic()
    with report_errors(), ProgressReporter("Reading Kafka") as progress:
        config = StreamConfig.from_settings(settings())
        complete_since = pruning.deletable_before(datetime.now(UTC), archive_days=settings().lifecycle.archive_days)
        invariants = [
            *check_invariants(config, progress),
            outcomes(config, settings().topics.outcomes, complete_since=complete_since, progress=progress),
        ]
    holds = all(invariant.holds for invariant in invariants)
    if as_json:
        emit({"holds": holds, "invariants": [asdict(invariant) for invariant in invariants]})
    else:
        for invariant in invariants:
            mark, style = ("✓", "green") if invariant.holds else ("✗", "red")
            output.print(Text.assemble((f"{mark} ", style), f"{invariant.name}: {invariant.summary}"), soft_wrap=True)
            for violation in invariant.violations:
                output.print(Text(f"    {violation}", style="red"), soft_wrap=True)
            if not invariant.holds and (more := invariant.figures.get("violations", 0) - len(invariant.violations)) > 0:
                output.print(Text(f"    and {more:,} more", style="red"))
        violated = sum(not invariant.holds for invariant in invariants)
        ending = "Every invariant holds" if holds else f"{violated} of {len(invariants)} invariants do not hold"
        output.print(f"{ending}. Took {time.monotonic() - began:.1f} s.", highlight=False)
    if not holds:
        raise typer.Exit(ExitCode.CHECK_FAILED)
