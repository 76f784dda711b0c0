"""Ports on localhost: the usual one or any free one. The choice is stored for the next start."""

import json
import socket
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

HOST = "127.0.0.1"

USUAL_PORTS: Mapping[str, int] = {
    "kafka": 9092,
    "kafka-controller": 9093,
    "postgres": 5432,
    "mlflow": 5001,  # 5000 is AirPlay on macOS
    "dagster": 3000,
    "dashboard": 8050,
    "api": 8080,
    "worker-metrics": 9464,
}
ANY_FREE_PORTS: Mapping[str, int] = dict.fromkeys(USUAL_PORTS, 0)


def is_free(port: int) -> bool:
    """Return whether nothing listens on the port, on localhost or on all interfaces."""
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex((HOST, port)) == 0:  # macOS lets a second socket bind beside a listener on all interfaces
            return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free for a server
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _read(file: Path) -> dict[str, int]:
    """Return the ports in the file, by name. A damaged file, after a power failure, counts as empty."""
    try:
        found = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: port for name, port in found.items() if isinstance(port, int)}


class Ports:
    """The ports of one stack, kept in a file so that addresses stay the same from one start to the next."""

    def __init__(self, file: Path, usual: Mapping[str, int] = USUAL_PORTS) -> None:
        """Read the file.

        Args:
            file: JSON of name to port.
            usual: the ports to try first; 0 is any free one.
        """
        self._file = file
        self._usual = usual
        self._chosen = _read(file)
        self._reserved: list[FileLock] = []

    def __getitem__(self, name: str) -> int:
        """Return the chosen port."""
        return self._chosen[name]

    def __contains__(self, name: str) -> bool:
        """Return whether a port was ever chosen."""
        return name in self._chosen

    def choose(self) -> None:
        """Choose a port for each server: its earlier port if that is free, else the usual one, else any free one.

        The ports are reserved until `release`. It may take many seconds until a server listens, and another stack of
        the same user that starts meanwhile must not choose the same port.
        """
        self.release()
        for name, usual in self._usual.items():
            preferred = [port for port in (self._chosen.get(name, 0), usual) if port]
            self._chosen[name] = next(filter(self._reserve, preferred), None) or self._any()
        self._file.write_text(json.dumps(self._chosen, indent=1))

    def release(self) -> None:
        """Release the reservations, once the servers listen or have failed."""
        while self._reserved:
            self._reserved.pop().release()

    def _reserve(self, port: int) -> bool:
        folder = user_cache_path("churn-platform") / "ports"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / str(port))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        if not is_free(port):
            lock.release()
            return False
        self._reserved.append(lock)
        return True

    def _any(self) -> int:
        while True:
            with socket.socket() as probe:
                probe.bind((HOST, 0))
                port: int = probe.getsockname()[1]
            if self._reserve(port):
                return port
