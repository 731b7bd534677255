"""
This package runs the owner's scripts: it starts them, limits their time, ends them, and logs
what they write.
"""
