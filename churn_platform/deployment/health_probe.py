"""A container's health check. It has to start quickly, because the engine runs it repeatedly.

`python -m churn_platform.deployment.health_probe code localhost:4000`; the exit code is 0 if the server is healthy.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from churn_platform.deployment import health
from churn_platform.worker import heartbeat

PROBES: Mapping[str, Callable[[str], bool]] = {
    "code": health.code_server_serves,
    "web": health.http_server_answers,
    "daemon": health.daemons_have_heartbeats,
    "worker": lambda local: heartbeat.is_alive(Path(local)),
}
"""By kind of server. The argument is host:port for a code server, a URL for a web server, the web server's URL for the
daemon, and CHURN_LOCAL for the worker."""

if __name__ == "__main__":
    kind, address = sys.argv[1:]
    sys.exit(not PROBES[kind](address))
