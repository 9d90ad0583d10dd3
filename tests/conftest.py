"""Settings that all tests share."""

from hypothesis import HealthCheck, settings

# The same examples every time: a test that fails here fails everywhere, and again. How long an example takes to
# draw says something about the machine, not about the satellite.
settings.register_profile("repeatable", derandomize=True, deadline=None,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")
