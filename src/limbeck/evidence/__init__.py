"""What distillation was worth: quality, fidelity, cost, the comparison with a matched control, and the report."""
