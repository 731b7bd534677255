"""
This package has everything under C{/llmux/}: what operators see of llmux, and the commands that
they give.
"""
