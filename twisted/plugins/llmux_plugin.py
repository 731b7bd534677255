"""This plugin makes C{twistd llmux} available."""

from twisted.application.service import ServiceMaker

llmux = ServiceMaker(
    "llmux",
    "llmux.tap",
    "One OpenAI-compatible endpoint in front of more language models than the GPU can hold.",
    "llmux",
)
