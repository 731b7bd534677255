"""
This package has the Resource tree, which finds the model of each request, and passes the
request on.
"""
