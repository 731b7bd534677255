"""This package records what llmux does: metrics, the log, the log of requests."""
