"""This plugin makes C{twistd --reactor=llmux} available."""

from twisted.application.reactors import Reactor

llmux = Reactor(
    "llmux",
    "llmux.daemon.reactor",
    "epoll(7) with a monotonic clock and less work for each event, for llmux alone.",
)
