"""
This package knows which models are awake, which requests wait and which are in flight, and
moves models.

 - C{switcher}: the façade, which puts the parts together and begins stories
 - C{reconfiguration}: another configuration for a switcher that runs
 - C{requests}: the requests that wait for a model, and those in flight
 - C{snapshot}: a switcher at one moment, for people and for the metrics
 - C{readiness}: whether llmux can do its work, for load balancers
 - C{decisions}: when the policy is asked, what it sees, and what is done with its answers
 - C{wishes}: what operators, timers and the configuration ask of the switcher
 - C{stories}: the coroutines that move models through their phases
 - C{facts}: what is known of models: settings, phases, the ledger of capacity, costs
"""
