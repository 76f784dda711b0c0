"""`make test-image`: builds the image, then tests it in a separate network namespace, where all ports are free."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from churn_platform.local import jars
from churn_platform_tests.image import buildah
from churn_platform_tests.image.compose import services

# In a separate network with their own host names, services find each other as they do in containers.
INSIDE = 'ip link set dev lo up && mount --bind "$1" /etc/hosts && rm "$1" && shift && exec "$@"'


def main() -> None:
    """Build the image, then run pytest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", help="base image; by default, a Debian that debootstrap creates")
    options, for_pytest = parser.parse_known_args()
    try:
        buildah.require("buildah", "unshare", "ip", "git")
        buildah.build(options.base or buildah.create_base())
    except buildah.CannotBuildError as error:
        sys.exit(f"make test-image cannot run here. {error}")
    sys.stdout.write(f"The image {buildah.IMAGE} has {buildah.megabytes():,} MB.\n")
    jars.fetch(lambda _: None)
    descriptor, hosts = tempfile.mkstemp(prefix="churn-hosts-")
    with os.fdopen(descriptor, "w") as file:
        file.writelines(f"127.0.0.1 {name}\n" for name in ("localhost", *services()))
    Path(hosts).chmod(0o644)
    sys.stdout.flush()
    tests = (sys.executable, "-m", "pytest", "-m", "image", "churn_platform_tests/image", *for_pytest)
    os.execvp("unshare", ("unshare", "--net", "--mount", "sh", "-c", INSIDE, "sh", hosts, *tests))  # noqa: S606, S607  without a shell, and found on the PATH


if __name__ == "__main__":
    main()
