"""
This package drafts first configurations from what a machine has: GPUs, model files, other
programs' configurations.
"""
