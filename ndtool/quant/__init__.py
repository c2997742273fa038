"""The one int8 arithmetic."""
