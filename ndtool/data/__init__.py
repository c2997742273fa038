"""Data sources: one file each, all giving uint8 pixels and labels through the contract."""
