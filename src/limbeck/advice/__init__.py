"""What to know before anything is spent."""
