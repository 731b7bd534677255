"""This package has the command line of llmux: the C{llmux} command and its sub-commands."""
