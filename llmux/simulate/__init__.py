"""
C{llmux simulate} runs llmux's own switcher and policies on recorded or invented
requests.  The clock jumps from call to call, and hooks and backends only take time.
"""
