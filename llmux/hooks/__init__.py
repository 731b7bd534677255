"""This package runs the owner's scripts: it starts, limits, ends and hears them."""
