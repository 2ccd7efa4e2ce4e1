"""Makes hypothesis deterministic: a run that failed fails again."""

from hypothesis import settings

settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")
