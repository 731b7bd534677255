"""First configurations, drafted from what is there: GPUs, model files, others' files."""
