"""
This package has the Resource tree, which finds the model of each request, and passes the
request on.

 - C{endpoints}: the paths that llmux itself answers, and the tree that leaves the others to
   models
 - C{switching_resource}: finds the model of a request, and has it woken
 - C{turn}: one request from its arrival to its end
 - C{resource}: passes requests on to backends
 - C{relay}: one request to its backend, and the reply back
 - C{stalls}: clients that delay a switch because they read nothing
 - C{guarded}: the interface between the Resource that finds models and the one that answers
 - C{stock_caller}: the requests of a Site of twisted.web
 - C{drop_connections}: a backend's connections, closed before its model sleeps
 - C{model_list}: the list of models, as the API has it
 - C{read_only}: the base of Resources that can only be read
 - C{missing_model}: the answer to a request that names no model
 - C{naming}: the names of models, and what each changes in a body
 - C{refusals}: the errors with which llmux itself answers
 - C{model_name}: the search for the name of the model in a body
 - C{long_work}: work in several turns of the reactor
"""
