"""`churn verify`: whether every law of the stream holds."""

import time
from dataclasses import asdict

import typer
from rich.text import Text

from churn_platform.commands.terminal import AsJson, ExitCode, ProgressReporter, emit, output, report_errors


def verify(as_json: AsJson = False) -> None:
    """Check Kafka and PostgreSQL against each other: no event or outcome lost, none counted twice, every sum right.

    It changes nothing and may run while the stream is live. Exit code 1 when a law does not hold,
    4 when that cannot be found out.

    Example: churn verify --json
    """
    from datetime import UTC, datetime

    from churn_platform.monitoring import pruning
    from churn_platform.operations import outcome_verification, verification
    from churn_platform.settings import settings
    from churn_platform.stream.config import StreamConfig

    began = time.monotonic()
    with report_errors(), ProgressReporter("Reading Kafka") as progress:
        config = StreamConfig.from_settings(settings())
        complete_since = pruning.deletable_before(datetime.now(UTC), archive_days=settings().archive_days)
        laws = [
            *verification.verify(config, progress),
            outcome_verification.verify(
                config, settings().outcomes_topic, complete_since=complete_since, progress=progress
            ),
        ]
    holds = all(law.holds for law in laws)
    if as_json:
        emit({"holds": holds, "laws": [asdict(law) for law in laws]})
    else:
        for law in laws:
            mark, style = ("✓", "green") if law.holds else ("✗", "red")
            output.print(Text.assemble((f"{mark} ", style), f"{law.name}: {law.says}"), soft_wrap=True)
            for place in law.broken:
                output.print(Text(f"    {place}", style="red"), soft_wrap=True)
            if not law.holds and (more := law.figures.get("broken", 0) - len(law.broken)) > 0:
                output.print(Text(f"    and {more:,} more", style="red"))
        broken = sum(not law.holds for law in laws)
        ending = "Every law holds" if holds else f"{broken} of {len(laws)} laws do not hold"
        output.print(f"{ending}. Took {time.monotonic() - began:.1f} s.", highlight=False)
    if not holds:
        raise typer.Exit(ExitCode.CHECK_FAILED)
