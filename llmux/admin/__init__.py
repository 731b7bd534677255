"""What operators see of llmux, and the commands that they give: everything under C{/llmux/}."""
