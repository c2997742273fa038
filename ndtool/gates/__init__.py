"""Rules of check."""
