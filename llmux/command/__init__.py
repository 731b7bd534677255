"""
This package has the command line of llmux: the C{llmux} command and its sub-commands.

 - C{main}: the C{llmux} command: the daemon in the foreground, or a sub-command
 - C{command_line}: the options and sub-commands that stand after C{llmux}
 - C{verbs}: the commands that talk to a running llmux: what each asks and prints
 - C{checking}: C{llmux check}
 - C{setup}: C{llmux init}, C{llmux schema} and C{llmux completion}
 - C{full_screen}: C{llmux top}
 - C{link}: what leads from a command line to the daemon: names, options, the socket
 - C{words}: how values, statuses and events are written for people
"""
