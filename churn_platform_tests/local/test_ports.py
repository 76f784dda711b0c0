"""Ports: the usual one, or a free one if it is taken; and the same one at the next start."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from churn_platform.local.ports import ANY_FREE_PORTS, HOST, Ports, is_free


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that something listens on."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        yield listener.getsockname()[1]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def _chosen(file: Path, usual: int) -> int:
    ports = Ports(file, {"dagster": usual})
    ports.choose()
    ports.release()
    return ports["dagster"]


def test_the_usual_port_is_chosen_if_it_is_free(tmp_path: Path) -> None:
    usual = _free_port()

    assert _chosen(tmp_path / "ports.json", usual) == usual


def test_a_taken_port_is_replaced_by_a_free_one_that_is_remembered(tmp_path: Path, taken: int) -> None:
    moved = _chosen(tmp_path / "ports.json", taken)

    assert moved != taken
    assert is_free(moved)
    assert _chosen(tmp_path / "ports.json", taken) == moved


def test_a_remembered_port_stays_when_the_usual_one_is_free_again(tmp_path: Path) -> None:
    first = _chosen(tmp_path / "ports.json", 0)

    assert _chosen(tmp_path / "ports.json", _free_port()) == first


def test_stacks_that_start_at_the_same_time_choose_different_ports(tmp_path: Path) -> None:
    usual = _free_port()
    one = Ports(tmp_path / "one.json", {"dagster": usual})
    other = Ports(tmp_path / "other.json", {"dagster": usual})

    one.choose()
    other.choose()

    assert one["dagster"] == usual
    assert other["dagster"] != usual
    one.release()
    other.release()


def test_no_port_serves_two_servers(tmp_path: Path) -> None:
    ports = Ports(tmp_path / "ports.json", ANY_FREE_PORTS)

    ports.choose()
    ports.release()

    assert len({ports[name] for name in ANY_FREE_PORTS}) == len(ANY_FREE_PORTS)


@pytest.mark.parametrize("content", ["", "[1]", '{"dagster": "soon"}', "{"])
def test_a_damaged_file_remembers_no_port(tmp_path: Path, content: str) -> None:
    file = tmp_path / "ports.json"
    file.write_text(content)

    assert is_free(_chosen(file, _free_port()))
