"""The thread that uses the connection with the lock. It runs the jobs that are submitted to it."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Final

Job = Callable[[], None]

# While submit() waits for space in the queue, it checks this often whether a thread has failed.
QUEUE_SECONDS: Final = 0.5


class WriterThread:
    """Runs jobs one after the other, until one fails.

    One job runs and one is queued, so that events gather while a commit is written.
    """

    def __init__(self, *, on_idle: Callable[[], None], stop_seconds: float) -> None:
        """Create the thread; start() starts it.

        Args:
            on_idle: called in the thread when no job is left for now.
            stop_seconds: longest wait of stop().
        """
        self._on_idle = on_idle
        self._stop_seconds = stop_seconds
        self._jobs: queue.Queue[Job | None] = queue.Queue(1)
        self._idle = threading.Event()
        self._idle.set()
        self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def is_idle(self) -> bool:
        """Return whether no job is running or queued."""
        return self._idle.is_set()

    def check(self) -> None:
        """Raise the error that stopped the thread, if there is one."""
        if self._error is not None:
            raise self._error

    def submit(self, job: Job | None, *, while_waiting: Callable[[], None]) -> None:
        """Queue a job. None ends the thread after the queued jobs.

        Args:
            job: what to run.
            while_waiting: called before each wait for space in the queue; an error that it raises ends the wait.
        """
        self._idle.clear()
        while True:
            self.check()
            while_waiting()
            try:
                return self._jobs.put(job, timeout=QUEUE_SECONDS)
            except queue.Full:
                continue

    def finish(self, *, while_waiting: Callable[[], None]) -> None:
        """Run the jobs that are queued, then end the thread; raise the error that stopped it."""
        self.submit(None, while_waiting=while_waiting)
        self._thread.join()
        self.check()

    def stop(self) -> bool:
        """End the thread after the running job; return whether it ended in time. May be called before start()."""
        self._stopped = True
        deadline = time.monotonic() + self._stop_seconds
        while self._thread.is_alive() and time.monotonic() < deadline:
            try:
                self._jobs.put(None, timeout=QUEUE_SECONDS)
            except queue.Full:
                continue
            self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while (job := self._jobs.get()) is not None and not self._stopped:
                job()
                if self._jobs.empty():
                    self._idle.set()
                    self._on_idle()
        except BaseException as error:  # check() raises it in the main thread
            self._error = error
            self._idle.set()
