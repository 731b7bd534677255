"""The search for the name of the model in a request's body."""
