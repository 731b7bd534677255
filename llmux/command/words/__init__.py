"""
This package writes for people what a daemon tells.

 - C{event_lines}: events and requests as lines
 - C{models_table}: the table of C{llmux ps}
 - C{forewarning}: what a command will do, said before it is given
 - C{sentence}: what a status means, in sentences
 - C{text_table}: tables, aligned and fitted to a terminal
 - C{durations}: lengths of time, and the time between two moments
 - C{styles}: text with colours, for a terminal or for a file
"""
