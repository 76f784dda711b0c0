"""Health checks of the servers that a deployment runs: Dagster's three and every HTTP server."""

import time

import httpx

HTTP_SECONDS = 2
GRAPHQL_SECONDS = 5
HEARTBEAT_SECONDS = 90  # a daemon without a heartbeat for this long is not healthy: three of its own intervals
HEARTBEATS = "{ instance { daemonHealth { allDaemonStatuses { daemonType required lastHeartbeatTime } } } }"


def http_server_answers(url: str) -> bool:
    """Return whether the URL answers with success."""
    try:
        # without the environment's proxy, which cannot reach this machine's localhost
        return httpx.get(url, timeout=HTTP_SECONDS, trust_env=False).is_success
    except httpx.TransportError:
        return False


def code_server_serves(target: str) -> bool:
    """Return whether Dagster's code server reports itself as serving.

    Args:
        target: its address as gRPC writes it: host:port or unix:path.
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(target) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service="DagsterApi"), timeout=HTTP_SECONDS
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def daemons_have_heartbeats(url: str, *, since: float = 0) -> bool:
    """Return whether every daemon that the instance requires has sent a recent heartbeat.

    Args:
        url: of Dagster's web server, which reads the heartbeats.
        since: only heartbeats from then on count, in seconds since the epoch.
    """
    try:
        answer = httpx.post(f"{url}/graphql", json={"query": HEARTBEATS}, timeout=GRAPHQL_SECONDS, trust_env=False)
    except httpx.TransportError:
        return False
    if not answer.is_success:
        return False
    daemons = answer.json()["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
    heartbeats = [daemon["lastHeartbeatTime"] or 0 for daemon in daemons if daemon["required"]]
    return bool(heartbeats) and min(heartbeats) >= max(since, time.time() - HEARTBEAT_SECONDS)
