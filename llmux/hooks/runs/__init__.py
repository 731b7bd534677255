"""
This package has one run of a hook, and the process under it.

 - C{hook_process}: a run of a script, as a C{ProcessProtocol}
 - C{answered}: a run whose result is known without running anything
 - C{environment}: the environment variables of hooks and servers
 - C{spawn}: processes that lead a group of their own
 - C{lines}: what hooks write, cut into lines and logged at a limited rate
"""
