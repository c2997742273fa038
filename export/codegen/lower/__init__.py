"""int8 graph -> kernel calls of the portable tier."""
