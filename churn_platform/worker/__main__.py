"""`python -m churn_platform.worker [HOST PORT]`: the worker as `churn up` and containers start it.

Host and port are those of its metrics, instead of the settings.
"""

import sys

from churn_platform import logs
from churn_platform.settings import load_settings
from churn_platform.worker import process

if __name__ == "__main__":
    host, port = [*sys.argv[1:], *[""] * 2][:2]
    settings = load_settings()
    logs.configure(settings.platform.log_format)
    process.run(settings, metrics_host=host or None, metrics_port=int(port) if port else None)
