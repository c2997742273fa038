"""What is told of a training, for people and programs."""
