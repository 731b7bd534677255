"""This module has the backend of a simulation, which answers nothing and only takes time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["SimulatedBackend"]


class SimulatedBackend:
    """
    This backend serves C{slots} requests at a time.  The other requests wait inside the
    backend, first come, first served.  A request is a number here.

    @param began: a function that is called with each request when its service begins.
    @param done: a function that is called with each request when it has been served.
    """

    def __init__(
        self,
        clock: IReactorTime,
        slots: int,
        began: Callable[[int], object],
        done: Callable[[int], object],
    ) -> None:
        self._clock = clock
        self._slots = slots
        self._began = began
        self._done = done
        self._serving: dict[int, IDelayedCall] = {}
        self._queue: deque[tuple[int, float]] = deque()
        self._gone: set[int] = set()

    def submit(self, request: int, seconds: float) -> None:
        """Take a request that needs C{seconds} of service."""
        if len(self._serving) < self._slots:
            self._serve(request, seconds)
        else:
            self._queue.append((request, seconds))

    def abort(self, request: int) -> None:
        """End a request now, whether its service has begun or not."""
        call = self._serving.pop(request, None)
        if call is None:
            self._gone.add(request)
        else:
            call.cancel()
            self._next()

    def _serve(self, request: int, seconds: float) -> None:
        self._serving[request] = self._clock.callLater(seconds, self._finish, request)
        self._began(request)

    def _finish(self, request: int) -> None:
        del self._serving[request]
        self._next()
        self._done(request)

    def _next(self) -> None:
        queue, gone = self._queue, self._gone
        while queue and len(self._serving) < self._slots:
            request, seconds = queue.popleft()
            if request in gone:
                gone.discard(request)
            else:
                self._serve(request, seconds)
