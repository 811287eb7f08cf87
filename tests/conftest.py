"""Settings every test shares: eight CPU devices for sharding, reproducible hypothesis runs."""

import os
from pathlib import Path

# Both are read once, when JAX starts its backend, so they come before any import of jax.
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # JAX_PLATFORMS=cuda pytest ... runs on a GPU
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    ).strip()

# Most of the time goes into XLA: equal programs of all processes, and of the next run, share one
# compilation. Its key is the program, so a changed line of code cannot meet an old result.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".xla_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import hypothesis

# The first call of a jitted function compiles for seconds, so deadlines would only measure XLA;
# derandomize makes every machine run the same cases.
_COMMON = {"deadline": None, "derandomize": True, "print_blob": True}
_SLOW_CHECKS = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large]
hypothesis.settings.register_profile(
    "default", max_examples=25, suppress_health_check=_SLOW_CHECKS, **_COMMON
)
hypothesis.settings.register_profile(
    "thorough", max_examples=1000, suppress_health_check=_SLOW_CHECKS, **_COMMON
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
