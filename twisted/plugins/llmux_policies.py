"""This plugin offers llmux' own policies in the same way as those of other distributions."""

from llmux.policy.cost_aware import CostAwarePolicyFactory
from llmux.policy.fifo import FifoPolicyFactory
from llmux.policy.lru import LruPolicyFactory

cost_aware = CostAwarePolicyFactory()
fifo = FifoPolicyFactory()
lru = LruPolicyFactory()
