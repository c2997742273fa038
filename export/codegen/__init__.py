"""C for the microcontroller."""
