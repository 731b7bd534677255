"""
This package has the names by which requests call models, and what each name changes in a
request's body.
"""
