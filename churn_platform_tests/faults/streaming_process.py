"""A process that streams batches until it is killed: python -m churn_platform_tests.faults.streaming_process.

It does what the sensor and Dagster's runs do, without Dagster. A run that fails is followed by the next one. An
argument is the number of the lane that it streams; without one, 0.
"""

import logging
import sys
import time
import uuid
from datetime import UTC, datetime
from typing import Final

import psycopg

from churn_platform.database import stream_batches
from churn_platform.errors import PlatformError
from churn_platform.lanes import Lane
from churn_platform.orchestration.partitions import batch_key
from churn_platform.settings import settings
from churn_platform.stream import runs
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.result import Ending
from churn_platform.stream.run_session import RunSession

# Pause of the process, not of a test: as the sensor does, it starts another run only some time after one has failed.
RETRY_SECONDS: Final = 0.2
_log: Final = logging.getLogger("streaming")


def stream_once(config: StreamConfig, lane: Lane) -> bool:
    """Stream into a new batch of a lane until it ends; return whether so many lanes are still wanted."""
    key = batch_key(datetime.now(UTC), lane)
    with psycopg.connect(config.dsn, autocommit=True) as connection:
        stream_batches.plan_batch(connection, key, lane)
    run_id = str(uuid.uuid4())
    session = RunSession(config.dsn, run_id, has_ended=lambda: False)
    session.open()
    try:
        outcome = runs.materialize(config, (key,), run_id=run_id, log=_log.info, confirm=session.confirm)
    finally:
        session.close()
    return str(Ending.LANES) not in (outcome.note, outcome.metadata.get("ended_by"))


def main() -> None:
    """Stream until another number of lanes is wanted."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    is_wanted = True
    while is_wanted:
        try:
            config = StreamConfig.from_settings(settings())
            is_wanted = stream_once(config, Lane(config.lanes, number))
        except (PlatformError, psycopg.Error) as error:
            _log.info("The run failed: %s", error)
            time.sleep(RETRY_SECONDS)


if __name__ == "__main__":
    main()
