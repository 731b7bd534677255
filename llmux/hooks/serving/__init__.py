"""
This package has the servers that llmux starts itself, those of models with C{serve}.

 - C{serve}: the hooks of such models
 - C{stray_servers}: servers of an earlier llmux that belong to no model any more
 - C{server}: the server of one model: a process, with all others of its group
 - C{output_file}: what a server writes, by a file to the log
 - C{exec_form}: a shell command that replaces its shell by the program
 - C{free_port}: a port for a server that is about to be started
"""
