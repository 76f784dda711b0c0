"""Builds the image and runs its commands with buildah, without a container engine, as root on Linux."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
from platformdirs import user_cache_path

from churn_platform.settings import PROJECT_ROOT

IMAGE: Final = "localhost/churn-platform:test"
BASE: Final = "localhost/churn-platform-base:test"
REVISION: Final = "test-revision"
SUITE: Final = "bookworm"
PACKAGES: Final = "python3,python3-venv,ca-certificates"
AUTHORITIES: Final = Path("etc/ssl/certs/ca-certificates.crt")

_STORE: Final = user_cache_path("churn-platform") / "buildah"


class CannotBuildError(Exception):
    """This machine cannot build the image."""


def require(*programs: str) -> None:
    """Make sure that programs are installed, and that this is Linux and root.

    Raises:
        CannotBuildError: something is missing. The text says how to get it.
    """
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise CannotBuildError(
            f"Not installed: {', '.join(missing)}. On Debian or Ubuntu: "
            f"apt-get install --no-install-recommends buildah debootstrap iproute2 util-linux"
        )
    if sys.platform != "linux" or os.geteuid() != 0:
        raise CannotBuildError("Containers without an engine need Linux and root: try sudo, or a virtual machine.")


def command(*arguments: str) -> list[str]:
    """Return a command line of buildah that uses a separate store."""
    store = ("--root", str(_STORE / "root"), "--runroot", str(_STORE / "run"), "--storage-driver", "vfs")
    return ["buildah", *store, *arguments]


def output_of(*arguments: str) -> str:
    """Run buildah and return its output."""
    outcome = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, f"buildah {' '.join(arguments)}: {outcome.stderr}"
    return outcome.stdout.strip()


def exists(image: str) -> bool:
    """Return whether an image with this name exists."""
    return (
        subprocess.run(command("inspect", "--type", "image", image), capture_output=True, check=False).returncode == 0
    )


def create_base() -> str:
    """Create a small Debian with Python, in place of the Dockerfile's base image where no registry is available."""
    if not exists(BASE):
        require("debootstrap")
        with tempfile.TemporaryDirectory(prefix="churn-base-") as folder:
            debian = ("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, folder)
            subprocess.run(debian, check=True)
            if (Path("/") / AUTHORITIES).exists():  # this machine may trust the certificate of a proxy
                shutil.copy(Path("/") / AUTHORITIES, Path(folder) / AUTHORITIES)
            container = output_of("from", "scratch")
            output_of("copy", "--quiet", container, folder, "/")
            output_of("commit", "--quiet", "--rm", container, BASE)
    return BASE


def build(base: str) -> None:
    """Build the image on a base image, from a clean copy of the files that git lists."""
    require("buildah")
    with tempfile.TemporaryDirectory(prefix="churn-context-") as folder:
        context = Path(folder)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607  git of the user's PATH
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (PROJECT_ROOT / name).exists():
                (context / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(PROJECT_ROOT / name, context / name)
        (context / ".env").write_text("SECRET=must-not-be-in-the-image\n")
        pull = ("--pull-never",) if base == BASE else ()
        values = ("--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"REVISION={REVISION}")
        # Docker's format, because OCI's has no health check.
        options = ("--isolation", "chroot", "--format", "docker", *pull, *values)
        subprocess.run(command("bud", *options, "--tag", IMAGE, folder), check=True)
    output_of("rmi", "--prune", "--force")


def megabytes() -> int:
    """Return the unpacked size of the image in MB."""
    (image,) = json.loads(output_of("images", "--json", IMAGE))
    number, unit = image["size"].split()
    return round(float(number) * {"KB": 1e-3, "MB": 1, "GB": 1e3}[unit])


def configuration() -> dict[str, Any]:
    """Return the configuration of the image: Entrypoint, Cmd, User, Env, Labels, Healthcheck."""
    found: dict[str, Any] = json.loads(output_of("inspect", "--type", "image", IMAGE))["Docker"]["config"]
    return found


@contextmanager
def container() -> Iterator[str]:
    """Create a container of the image. Its commands share one file system."""
    name = output_of("from", "--pull-never", IMAGE)
    try:
        yield name
    finally:
        output_of("rm", name)


def first_process(launcher: psutil.Process) -> psutil.Process | None:
    """Return the first process of the container, tini, below the buildah that launched it."""
    try:
        below = launcher.children(recursive=True)
        return next((each for each in below if each.name() == "tini"), None)
    except psutil.NoSuchProcess:
        return None
