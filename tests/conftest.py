"""What every test shares."""

from hypothesis import settings

# Machines differ in speed, so no example has a deadline; and a commit passes or fails for everybody alike.
settings.register_profile("cnet", deadline=None, derandomize=True)
settings.load_profile("cnet")
