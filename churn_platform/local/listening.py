"""Which process listens at an address. Only an answer from the process that was started counts."""

import socket
import struct
import sys
from collections.abc import Collection
from pathlib import Path

import psutil

from churn_platform.local.ports import HOST

Place = int | Path
"""Where a server listens: a port of localhost, or a Unix socket."""

EVERYWHERE = frozenset({HOST, "0.0.0.0", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0"})  # noqa: S104  compared, not bound
DARWIN_LEVEL, DARWIN_PEER = 0, 2  # SOL_LOCAL and LOCAL_PEERPID, which Python does not name


def listens(pid: int, place: Place) -> bool:
    """Return whether a connection to the place reaches this process."""
    return _socket_owner(place) == pid if isinstance(place, Path) else place in _ports(pid)


def other_listener(ours: Collection[int], place: Place) -> str | None:
    """Return a description of another process that listens at the place; None if there is none.

    Args:
        ours: process ids that may listen there.
        place: a port or socket of one of them.
    """
    if any(listens(pid, place) for pid in ours):
        return None
    if isinstance(place, Path):
        owner = _socket_owner(place)
    elif _is_open(place):
        owner = next((process.pid for process in psutil.process_iter() if place in _ports(process.pid)), 0)
    else:
        return None
    if owner is None or any(listens(pid, place) for pid in ours):  # ours has begun to listen meanwhile
        return None
    return _name(owner)


def _ports(pid: int) -> set[int]:
    """Return the ports of localhost at which the process listens; none if this user may not inspect the process."""
    try:
        found = psutil.Process(pid).net_connections("tcp")
    except (psutil.AccessDenied, psutil.NoSuchProcess, OSError):
        return set()
    return {
        each.laddr.port
        for each in found
        if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.ip in EVERYWHERE
    }


def _is_open(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((HOST, port)) == 0


def _socket_owner(path: Path) -> int | None:
    """Return the process at the other end of a Unix socket; None if nothing listens."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(str(path))
            if sys.platform == "darwin":
                return int(client.getsockopt(DARWIN_LEVEL, DARWIN_PEER))
            credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return None
    return int(struct.unpack("3i", credentials)[0])


def _name(pid: int) -> str:
    """Return a description of a process, without its arguments, because they may contain a password."""
    try:
        return f"process {pid} ({psutil.Process(pid).name()})"
    except psutil.Error:
        return "a process of another user"
