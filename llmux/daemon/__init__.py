"""
This package is about the process of llmux: what listens, what signals mean, how the reactor
polls.
"""
