"""
This package has everything under C{/llmux/}: what operators see of llmux, and the commands that
they give.

 - C{entrance}: leads to what is below, which is made when somebody first asks
 - C{tree}: the tree of Resources, as one listen address serves it
 - C{page_resource}: the page, and the way in with a token
 - C{views}: what can be seen: status, events, requests, log, history
 - C{administration}: what all listen addresses share
 - C{event_stream}: events for readers: first a status, then whatever changes
 - C{command_resource}: the Resource of one command
 - C{stream_reader}: a stream to a client that may read slowly
 - C{orders}: what a command may hold, and what is wrong with a body
 - C{replies}: who may ask, by which method, and how the answer is sent
 - C{roles}: who may do what
 - C{listen_address}: the addresses where llmux listens, as far as rights depend on them
 - C{login}: a token for a browser, exchanged for a cookie
 - C{reports}: what is said of the switcher: the status, requests, reasons, moments
"""
