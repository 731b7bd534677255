"""
This package keeps on disk what one llmux leaves to the next.

 - C{command_notes}: commands that last, pins and a pause
 - C{places}: the places of models, of which hooks are told
 - C{state}: the state directory, with a directory for each model
 - C{process_table}: whether processes of an earlier llmux still run
"""
