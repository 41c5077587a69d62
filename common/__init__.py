"""What every room may lean on: one error type, the command-line habit, safe files, progress."""
