"""What makes C{twistd llmux} exist."""

from twisted.application.service import ServiceMaker

llmux = ServiceMaker(
    "llmux",
    "llmux.tap",
    "One OpenAI-compatible endpoint in front of more language models than the GPU can hold.",
    "llmux",
)
