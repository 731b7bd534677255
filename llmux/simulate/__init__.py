"""
C{llmux simulate}: the production switcher and policies on recorded or invented
requests, under a clock that jumps, with hooks and backends made of numbers.
"""
