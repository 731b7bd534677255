"""This package is an HTTP/1.1 server that knows no model."""
