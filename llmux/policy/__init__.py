"""
This package has policies, which decide which models are awake.  A policy only decides: the
switcher acts.
"""
