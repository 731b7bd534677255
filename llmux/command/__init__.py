"""The command line of llmux: the C{llmux} command and its sub-commands."""
