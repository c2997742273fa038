"""The int8 IR and the native converter."""
