"""The names that requests call models by, and what each name changes in a request's body."""
