"""
This package searches the body of a request for the name of the model.

 - C{find}: the model that a request names
 - C{form}: the search in a body that comes in pieces
 - C{json_scan}: the value of C{model} at the top of a JSON document
 - C{lenient}: what JSON does not allow but is accepted here
"""
