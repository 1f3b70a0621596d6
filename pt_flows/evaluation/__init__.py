"""What happens to a finished run."""
