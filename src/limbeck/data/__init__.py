"""What is learnt from: rows read as a pure function of (id, view), and the sources they come from."""
