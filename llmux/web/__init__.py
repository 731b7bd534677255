"""
This package is an HTTP/1.1 server that knows no model.

 - C{site}: makes the channels of connections, and knows them all
 - C{channel}: the server's side of a connection: requests come in, replies go out
 - C{reader}: bytes to requests, and what is refused in them
 - C{head_memo}: heads that were read before
 - C{request}: a C{twisted.web} Request that pays only for what it uses
 - C{caller}: the interface to code that has a request answered by somebody else
 - C{reply_channel}: the interface to code that writes replies
 - C{transport}: what a Request asks of its connection
 - C{request_head}: the head of a request, and what its fields mean
 - C{splicing}: bodies that differ in a few places from those that came
 - C{body}: bodies, in memory or in a file without a name
 - C{access}: what keeps web pages out of a server without a key
 - C{error_reply}: errors in the format of the API
 - C{limits}: sizes and times
"""
