"""
This package has what leads from a command line to a running llmux.

 - C{outcome}: whether what a command has begun has been completed
 - C{daemon_link}: one request by the daemon's socket or by a URL, without Twisted
 - C{verb_options}: the options of the commands, and their help
 - C{verb_names}: the names of the commands; imports nothing
"""
