"""The bank's own customers file, for tests that read it where it is. It is not in the repository."""

import pytest

from churn_platform.settings import PROJECT_ROOT

BANK_FILE = PROJECT_ROOT.parent / "shared" / "data" / "ChurnModelling.csv"

needs_bank_file = pytest.mark.skipif(not BANK_FILE.exists(), reason=f"the bank's own file is not at {BANK_FILE}")
