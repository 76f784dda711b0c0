"""A container's health check: whether its server is well. Quick, for it is asked as long as the container runs.

`python -m churn_platform.deployment.health_probe code localhost:4000`; the exit code is 0 when it is well.
"""

import sys
from collections.abc import Callable, Mapping

from churn_platform.deployment import dagster_servers, web

PROBES: Mapping[str, Callable[[str], bool]] = {
    "code": dagster_servers.serves,
    "web": web.answers,
    "daemon": lambda url: dagster_servers.beats(url, since=0),
}
"""By kind of server. Each gets an address: host:port of a code server, else a URL; a daemon's is the web server's."""

if __name__ == "__main__":
    kind, address = sys.argv[1:]
    sys.exit(not PROBES[kind](address))
