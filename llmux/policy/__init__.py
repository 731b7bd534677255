"""Policies: which model should be awake.  They decide; they do nothing."""
