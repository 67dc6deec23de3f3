"""What happens when something breaks, tried on the running service under load."""
