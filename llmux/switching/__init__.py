"""Which model is awake: who waits, who is in flight, and what moves a model."""
