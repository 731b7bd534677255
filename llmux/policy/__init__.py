"""
This package has policies, which decide which models are awake.  A policy only decides: the
switcher acts.

 - C{catalog}: the policies that are installed, by their names
 - C{cost_aware}: the default policy; its docstring explains the words of most modules below
 - C{door}: the door of a model that drains
 - C{forecasting}: the forecasts for clients that wait
 - C{plans}: where a model could wake, and which models would make room
 - C{outlook}: what is expected at the time of one question
 - C{knowledge}: what has been learnt from events
 - C{turns}: when a model that is waited for will be awake
 - C{parameters}: the parameters of the policy
 - C{estimators}: averages and quantiles of what has been observed
 - C{recall}: the last answer, for the same question
 - C{lru}: the policy of programs that load models on demand, for comparison
 - C{fifo}: the simplest policy: first come, first served
"""
