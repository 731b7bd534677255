"""
This package has the names by which requests call models, and what each name changes in a
request's body.

 - C{names}: own names, aliases and variants
 - C{body_edit}: a body, changed as its name asks
 - C{body_plan}: what becomes of the keys of a body, computed once for each name
 - C{json_members}: members at the top of a JSON object, with their places
 - C{form_values}: the values of a form's field C{model}, with their places
"""
