"""Building the image, and running its commands, with buildah: without a container engine, as root on Linux."""

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
REVISION: Final = "of-a-test"
SUITE: Final = "bookworm"
PACKAGES: Final = "python3,python3-venv,ca-certificates"
AUTHORITIES: Final = Path("etc/ssl/certs/ca-certificates.crt")

_STORE: Final = user_cache_path("churn-platform") / "buildah"


class CannotBuildError(Exception):
    """This machine lacks what it takes."""


def require(*programs: str) -> None:
    """Refuse to begin where something is missing.

    Raises:
        CannotBuildError: it says what, and how to get it.
    """
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise CannotBuildError(
            f"Not on this machine: {', '.join(missing)}. On Debian or Ubuntu: "
            f"apt-get install --no-install-recommends buildah debootstrap iproute2 util-linux"
        )
    if sys.platform != "linux" or os.geteuid() != 0:
        raise CannotBuildError("Containers without an engine need Linux and root: try sudo, or a virtual machine.")


def command(*arguments: str) -> list[str]:
    """A command line of buildah, on a store of its own."""
    store = ("--root", str(_STORE / "root"), "--runroot", str(_STORE / "run"), "--storage-driver", "vfs")
    return ["buildah", *store, *arguments]


def ask(*arguments: str) -> str:
    """What buildah answers."""
    outcome = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, f"buildah {' '.join(arguments)}: {outcome.stderr}"
    return outcome.stdout.strip()


def exists(image: str) -> bool:
    """Whether there is an image of this name."""
    return (
        subprocess.run(command("inspect", "--type", "image", image), capture_output=True, check=False).returncode == 0
    )


def make_base() -> str:
    """A small Debian with Python, to stand for the base image of the Dockerfile where no registry is in reach."""
    if not exists(BASE):
        require("debootstrap")
        with tempfile.TemporaryDirectory(prefix="churn-base-") as folder:
            debian = ("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, folder)
            subprocess.run(debian, check=True)
            if (Path("/") / AUTHORITIES).exists():  # a proxy's own may be among those that this machine trusts
                shutil.copy(Path("/") / AUTHORITIES, Path(folder) / AUTHORITIES)
            container = ask("from", "scratch")
            ask("copy", "--quiet", container, folder, "/")
            ask("commit", "--quiet", "--rm", container, BASE)
    return BASE


def build(base: str) -> None:
    """Build the image from a clean copy of what git knows, on this base image."""
    require("buildah")
    with tempfile.TemporaryDirectory(prefix="churn-context-") as folder:
        context = Path(folder)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607  the user's own git
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
        # Docker's own format: in OCI's a health check has no place.
        options = ("--isolation", "chroot", "--format", "docker", *pull, *values)
        subprocess.run(command("bud", *options, "--tag", IMAGE, folder), check=True)
    ask("rmi", "--prune", "--force")


def megabytes() -> int:
    """Size of the image, unpacked."""
    (image,) = json.loads(ask("images", "--json", IMAGE))
    number, unit = image["size"].split()
    return round(float(number) * {"KB": 1e-3, "MB": 1, "GB": 1e3}[unit])


def configuration() -> dict[str, Any]:
    """What the image says of itself: Entrypoint, Cmd, User, Env, Labels, Healthcheck."""
    found: dict[str, Any] = json.loads(ask("inspect", "--type", "image", IMAGE))["Docker"]["config"]
    return found


@contextmanager
def container() -> Iterator[str]:
    """A container of the image; its commands share one file system."""
    name = ask("from", "--pull-never", IMAGE)
    try:
        yield name
    finally:
        ask("rm", name)


def first_process(launcher: psutil.Process) -> psutil.Process | None:
    """What would be the container's first process, below the buildah that launched it: tini."""
    try:
        below = launcher.children(recursive=True)
        return next((each for each in below if each.name() == "tini"), None)
    except psutil.NoSuchProcess:
        return None
