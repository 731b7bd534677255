"""
C{llmux simulate} runs llmux's own switcher and policies on recorded or invented
requests.  The clock jumps from call to call, and hooks and backends only take time.

 - C{compare}: the command
 - C{plot}: runs as a drawing
 - C{options}: the command line
 - C{report}: figures as a table, and as JSON
 - C{recording}: what a request log says of its machine
 - C{figures}: waits, switches, shares of time
 - C{lanes}: what each resource was used for, and when
 - C{run}: one trace under one policy
 - C{clock}: a clock that jumps from call to call
 - C{scripts}: hooks that only take time
 - C{simulated_backend}: a backend that only takes time
 - C{trace}: the requests that a simulation runs
 - C{progress}: a progress bar
"""
