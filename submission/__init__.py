"""What a submission holds and how it is checked, for prepare_submit and the grader. Standard library only."""
