"""What `make run` and `make figures` call: the notebooks one after the other, the plan, the publication."""
