"""
A client of HTTP/1.1 on Twisted that knows no server: connections to backends,
kept alive and used again.
"""
