"""
This package has what a switcher knows of its models, and moves nothing.

 - C{chronicle}: what has happened to models and in switches, for people who ask
 - C{model}: one model: its phase, the requests that wait for it and those in flight
 - C{phases}: the life of a model: the table of phases and events
 - C{capacity}: the ledger: how much of which resource each model holds
 - C{cost}: what switches cost, learnt from those that were made
 - C{backoff}: for how long something that has failed is left alone
 - C{settings}: what the owner of the machine asks of the switcher
"""
