"""Training of ControlNets: data, caches, steps, and a loop that resumes exactly."""
