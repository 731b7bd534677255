"""
This package has C{llmux top}, which shows in a terminal what the page shows in a browser.

 - C{top}: the command: it asks, draws and obeys keys until it is left
 - C{top_keys}: what a key does
 - C{top_frame}: a status and its history as lines that fit the terminal
 - C{held_lanes}: lanes of models that have held a resource over the last minutes
 - C{terminal}: the terminal as a screen, given back as it was
"""
