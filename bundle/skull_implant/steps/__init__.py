"""The steps of a case, as transforms of its dictionary, and the report on it."""
