"""
This package has C{llmux check}, which says whether a configuration is sound.

 - C{check}: the command, and what it prints
 - C{fitting}: which models fit together
 - C{rehearsal}: C{llmux check --hooks}, which runs each model's scripts
 - C{rights}: who may do what, and from where
 - C{script_check}: mistakes in a script that can be seen without running it
"""
