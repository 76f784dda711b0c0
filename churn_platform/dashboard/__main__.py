"""`python -m churn_platform.dashboard [HOST [PORT]]`: the dashboard as `churn up` and containers start it."""

import sys

from churn_platform.dashboard import server
from churn_platform.settings import load_settings
from churn_platform.web_server import configure_log

if __name__ == "__main__":
    host, port = [*sys.argv[1:], *[""] * 2][:2]
    settings = load_settings()
    configure_log(settings.platform.log_format)
    server.run(settings, host=host or None, port=int(port) if port else None)
