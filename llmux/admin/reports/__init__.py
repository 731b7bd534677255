"""
This package writes what operators are told of the switcher and its requests.

 - C{status_report}: which models are awake, which requests wait, and why
 - C{request_rows}: the requests that are open, and the last that are over
 - C{reasons}: the reason of a decision in words
 - C{moments}: moments of the switcher's clock, as people read them
"""
