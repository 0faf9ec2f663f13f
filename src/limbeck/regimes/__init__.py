"""Who teaches whom, and when."""
