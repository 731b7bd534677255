"""
This package is a client of HTTP/1.1 on Twisted that knows no server: connections to backends,
which are kept and used again.
"""
