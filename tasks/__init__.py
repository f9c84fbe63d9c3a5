"""What is done: the subtasks of the seven stages, their arms, and the one bridge to the infrastructure."""
