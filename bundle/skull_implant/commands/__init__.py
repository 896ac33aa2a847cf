"""What the commands have in common, and a case from end to end."""
