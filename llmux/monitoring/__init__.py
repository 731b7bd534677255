"""What llmux tells of itself: metrics, the log, the log of requests."""
