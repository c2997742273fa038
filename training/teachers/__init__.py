"""Networks from outside that a student learns from."""
