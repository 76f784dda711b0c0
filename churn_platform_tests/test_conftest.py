"""What the fixtures of all tests rely on when they end."""

import subprocess
from pathlib import Path

from churn_platform.local.stack import Stack
from churn_platform_tests.conftest import discard


def test_a_stack_whose_postgres_has_ended_already_is_discarded(tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/true"]) as ended:
        pass
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "postmaster.pid").write_text(f"{ended.pid}\n")

    discard(Stack(tmp_path))
