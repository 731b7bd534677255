"""The process: what listens, what signals mean, how the reactor polls."""
