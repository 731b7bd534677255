"""This module chooses the reactor of a process that belongs to llmux alone."""

from __future__ import annotations

from llmux.daemon.twisted_gaps import has_reactor, use_monotonic_clock

__all__ = ["install_reactor"]


def install_reactor() -> None:
    """
    Install L{llmux.daemon.reactor.LlmuxReactor} unless this process has a reactor.

    If that class cannot be used (there is no epoll(7), or Twisted has changed), Twisted's own
    choice gets a monotonic clock.  Call this before anything is scheduled.
    """
    if not has_reactor():
        try:
            from llmux.daemon.reactor import install

            install()
        except (ImportError, AttributeError):
            pass
    from twisted.internet import reactor

    use_monotonic_clock(reactor)
