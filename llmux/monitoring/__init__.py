"""
This package records what llmux does: metrics, the log, the log of requests.

 - C{metrics}: counts, in the format of Prometheus
 - C{log}: the log, for people or as JSON
 - C{log_stream}: streams for a log that neither fail nor wait
 - C{request_log}: requests and switches, as C{llmux simulate} reads them
 - C{log_file}: the log file of a daemon
 - C{request_journal}: the requests that wait, and the last that are over
 - C{output_ring}: the last lines of each hook and server
"""
