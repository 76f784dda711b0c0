"""Entry into a lane: what a run does after it has the lock of its lane, so that no run of other lanes works meanwhile.

The number of lanes changes in this order: the sensor records the number that is wanted. Live runs see it in their next
commit, end their batches and release the stream's lock. The first run of the new lanes that has this lock alone closes
the batches that are left, so that none of their runs can commit, and initializes the transactional ids of all former
lanes, so that none of their producers can publish. Then it puts the new number in effect.
"""

import time
from collections.abc import Callable

from churn_platform.database import advisory_locks, stream_batches, stream_layouts
from churn_platform.database.stream_layouts import Layout
from churn_platform.kafka.transactions import fence
from churn_platform.lanes import transactional_id
from churn_platform.stream.run_context import RunContext
from churn_platform.stream.warm_up import Connections


def enter(run: RunContext, connections: Connections, *, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Wait until no run of another number of lanes is live, and put the number of this run's lanes in effect.

    Args:
        run: the run, which has the lock of its lane.
        connections: opened by the warm-up.
        sleep: waits before the next attempt.

    Returns:
        False if another number of lanes is wanted: nothing is left to do.

    Raises:
        KafkaException: the transactional ids of the former lanes could not be initialized.
    """
    connection, topic, lane = connections.lease.connection, run.config.events_topic, run.lane
    while (layout := stream_layouts.layout(connection, topic)).wanted == lane.of:
        if layout.lanes != lane.of:
            # The only lane has the stream's lock alone by now.
            if (lane.of == 1 or advisory_locks.try_lock_stream(connection, topic)) and _change(run, connections):
                return True
        elif lane.of == 1:
            return True
        elif advisory_locks.try_share_stream(connection, topic):
            # The lock was free for a moment, in which the number may have changed.
            if stream_layouts.layout(connection, topic) == layout:
                return True
            advisory_locks.stop_sharing_stream(connection, topic)
        sleep(advisory_locks.ASK_SECONDS)
    return False


def _change(run: RunContext, connections: Connections) -> bool:
    """Put the number of the run's lanes in effect, while its session has the stream's lock alone.

    If there are several lanes, the session shares the lock afterwards.

    Returns:
        False if another number is wanted by now.
    """
    connection, topic, lane = connections.lease.connection, run.config.events_topic, run.lane
    former = stream_layouts.layout(connection, topic)
    if former.wanted == lane.of != former.lanes:
        for batch in stream_batches.close_other_layouts(connection, lane.of):
            run.log(f"Closed batch {batch.batch} of {batch.reads}, left open with {batch.events} events.")
        for number in range(former.lanes):
            # This settles what the lane's last producer left open, and keeps it from publishing more.
            fence(
                run.config.kafka,
                transactional_id(run.config.kafka.group, number),
                call_seconds=run.limits.kafka_seconds,
                make_producer=run.make_producer,
            )
            connections.lease.heartbeat()
        if stream_layouts.put_in_effect(connection, topic, seen=former):
            run.log(f"The partitions of {topic} are split into {lane.of} lanes now, {former.lanes} before.")
    if lane.of > 1:
        advisory_locks.share_locked_stream(connection, topic)
    return stream_layouts.layout(connection, topic) == Layout(lane.of, lane.of)
