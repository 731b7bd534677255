"""
This package runs the owner's scripts and servers: it starts them, limits their time, ends them,
and logs what they write.

 - C{generations}: hooks of several configurations at a time, while one follows another
 - C{assembly}: the hook runner that a configuration asks for, put together
 - C{runner}: runs the scripts of a model
 - C{health}: asks a backend by HTTP, in place of an C{alive} script
 - C{backend_file}: the address that a C{wake} hook has written for its backend
 - C{serving}: models that have C{serve}, the command of their server
 - C{runs}: one run of a hook, and the process under it
 - C{persistence}: what one llmux leaves on disk for the next
"""
