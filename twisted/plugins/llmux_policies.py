"""Our policies, through the door that third parties use."""

from llmux.policy.cost_aware import CostAwarePolicyFactory
from llmux.policy.fifo import FifoPolicyFactory
from llmux.policy.lru import LruPolicyFactory

cost_aware = CostAwarePolicyFactory()
fifo = FifoPolicyFactory()
lru = LruPolicyFactory()
