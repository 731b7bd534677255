"""Policies decide which model is awake.  A policy only decides: the switcher acts."""
