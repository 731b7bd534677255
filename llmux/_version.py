"""
This module has the version and nothing else, so that the build can read it without importing
the rest.
"""

__version__ = "0.1.0"
