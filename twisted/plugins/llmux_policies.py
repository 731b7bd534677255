"""Our policies, through the door that third parties use."""

from llmux.policy.fifo import FifoPolicyFactory

fifo = FifoPolicyFactory()
