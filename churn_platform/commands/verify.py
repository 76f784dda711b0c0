"""`churn verify`: whether every law of the stream holds."""

import json
import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from churn_platform.commands.terminal import complaints, output, plain_errors


def verify(
    as_json: Annotated[bool, typer.Option("--json", help='For programs: {"holds": ..., "laws": [...]}.')] = False,
) -> None:
    """Check Kafka and PostgreSQL against each other: no event lost, none counted twice, every sum right.

    It changes nothing and may run while the stream is live. Exit code 1 when a law does not hold.

    Example: churn verify --json
    """
    from churn_platform.settings import settings
    from churn_platform.streaming import verification
    from churn_platform.streaming.config import StreamConfig

    began, progress = time.monotonic(), _Progress()
    with plain_errors(), progress:
        laws = verification.verify(StreamConfig.from_settings(settings()), progress)
    holds = all(law.holds for law in laws)
    if as_json:
        output.print_json(json.dumps({"holds": holds, "laws": [asdict(law) for law in laws]}))
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
        raise typer.Exit(1)


class _Progress:
    """What is being done, on stderr: one line that changes on a terminal, a line for each stage elsewhere."""

    def __init__(self) -> None:
        self._status = complaints.status("Looking at Kafka")
        self._stage = ""

    def __enter__(self) -> None:
        if complaints.is_terminal:
            self._status.start()

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def __call__(self, stage: str, count: int) -> None:
        if complaints.is_terminal:
            self._status.update(f"{stage}: {count:,}" if count else stage)
        elif stage != self._stage:
            complaints.print(stage, highlight=False)
        self._stage = stage
