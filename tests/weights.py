"""Weight arrays on which a quantizer can go wrong, all of one shape, so that XLA compiles once."""

import hypothesis.strategies as st
import numpy as np

SHAPE = (3, 3, 2, 4)  # a kernel: (kh, kw, cin, cout)
UNIT = 2.0**-24  # unit roundoff of float32


@st.composite
def weights(draw) -> np.ndarray:
    """Normals, uniforms, heavy tails, few or equal values: float32 of SHAPE, of any size."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(("normal", "uniform", "tails", "sparse", "integers")))
    w = {
        "normal": lambda: rng.normal(size=SHAPE),
        "uniform": lambda: rng.uniform(-1, 1, SHAPE),
        "tails": lambda: rng.standard_t(2, SHAPE),
        "sparse": lambda: rng.normal(size=SHAPE) * (rng.uniform(size=SHAPE) < 0.2),
        "integers": lambda: rng.integers(-3, 4, SHAPE),
    }[kind]()
    return np.ldexp(w, draw(st.integers(-20, 20))).astype(np.float32)
