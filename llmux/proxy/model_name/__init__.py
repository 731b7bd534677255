"""This package searches the body of a request for the name of the model."""
