"""int8 IR <-> flatbuffer, and lint."""
