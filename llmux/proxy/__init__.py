"""The Resource tree: it gives each request its model, and passes the request on."""
