"""
This package is a client of HTTP/1.1 on Twisted that knows no server: connections to backends,
which are kept and used again.

 - C{pool}: the connections to backends, kept and used again
 - C{connection}: one connection, which carries one exchange after the other
 - C{connection_phase}: the phases of a connection, in a table
 - C{exchange}: the interfaces between connections and the requests that go over them
 - C{template}: the head of a request, as bytes
 - C{reply}: the head of a reply, read as bytes
 - C{addresses}: the addresses of a host's name
 - C{whereabouts}: where backends listen now, by names
"""
