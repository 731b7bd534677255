"""
This package knows which models are awake, which requests wait and which are in flight, and
moves models.
"""
