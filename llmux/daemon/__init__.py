"""
This package is about the process of llmux: what listens, what signals mean, how the reactor
polls.

 - C{foreground}: llmux in a terminal, or under an init system
 - C{reactor_choice}: which reactor a process of our own has
 - C{reactor}: our reactor, on epoll with a monotonic clock
 - C{signals}: signals, the limit on open files, the garbage collector
 - C{notify}: the state of llmux, told to the init system
 - C{reload}: the configuration, read anew while llmux runs
 - C{service}: llmux as an C{IService}, from its sockets to the last request
 - C{listener}: where clients connect
 - C{admission}: how many clients are connected at once
 - C{admin_socket}: the Unix socket of the command line
 - C{spool}: the directory of large bodies, tried at the start
 - C{twisted_gaps}: each use of a private part of Twisted, with the reason
"""
