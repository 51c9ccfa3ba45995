"""The claims of the ControlNet paper (arXiv 2302.05543), tried on the mini model."""
