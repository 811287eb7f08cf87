"""Mutants of the theory; `test_mutants.py` runs them."""

from mutants_of_numbers import Mutant

THEORY = {
    "the tail of one side": Mutant(
        "theory/angle.py",
        "(math.log(2) + log_ndtr(-t)) / 2\n",
        "log_ndtr(-t) / 2\n",
        "tests/theory/test_angle.py -k test_ternary",
    ),
    "the bound of a bit more": Mutant(
        "theory/angle.py",
        "/ 3) / 2**bits",
        "/ 3) / 2 ** (bits + 1)",
        "tests/theory/test_angle.py -k bound_holds",
    ),
    "the worst angle is an average one": Mutant(
        "theory/angle.py",
        "np.sqrt((1 - error) * (1 + error))",
        "np.sqrt(1 - error**2 / 2)",
        "tests/theory/test_angle.py -k worst_case",
    ),
    "squares under- and overflow": Mutant(
        "theory/angle.py",
        "scaled = x.ravel() / largest",
        "scaled = x.ravel()",
        "tests/theory/test_angle.py -k test_cosine",
    ),
    "given extremes hold no less of the law": Mutant(
        "theory/angle_integral.py",
        "(n - 2) / mass * _sums",
        "(n - 2) * _sums",
        "tests/theory/test_angle_integral.py -k three_elements",
    ),
    "another kurtosis": Mutant(
        "theory/element_law.py",
        "return float(gamma(5 / b)",
        "return float(gamma(4 / b)",
        "tests/theory/test_element_law.py -k kurtosis_of_a_law",
    ),
    "quantiles above the median only": Mutant(
        "theory/element_law.py",
        "law.magnitude(2 * np.minimum(p, 1 - p))",
        "law.magnitude(2 * p)",
        "tests/theory/test_element_law.py -k test_quantile",
    ),
    "the lower bound without pi": Mutant(
        "theory/expected_range.py",
        "np.log(check(n)) / (math.pi * math.log(2))",
        "np.log(check(n)) / math.log(2)",
        "tests/theory/test_expected_range.py -k bounds_hold",
    ),
    "one sample too many beyond": Mutant(
        "theory/range_law.py",
        "-np.expm1((n - 1) * np.log1p(-beyond))",
        "-np.expm1(n * np.log1p(-beyond))",
        "tests/theory/test_expected_range.py -k both_tails",
    ),
    "rounding half a level down": Mutant(
        "theory/gradient_quantization.py",
        "rng.random(g.shape))",
        "rng.random(g.shape) - 0.5)",
        "tests/theory/test_gradient_quantization.py -k quantized_values",
    ),
    "the sharp enlargement in the width of a level": Mutant(
        "theory/gradient_quantization.py",
        "(_dimension(d) - 1) * resolution(bits) ** 2)",
        "(_dimension(d) - 1) * resolution(bits))",
        "tests/theory/test_gradient_quantization.py -k order_of_the_constants",
    ),
    "levels between the thresholds are off": Mutant(
        "theory/loss_aware.py",
        "s = c[..., None] * (2 * j - 1)",
        "s = c[..., None] * (2 * j)",
        "tests/theory/test_loss_aware.py -k optimum_is_the_best",
    ),
    "the spacing at zero is that at a half": Mutant(
        "theory/addition.py",
        "np.where(x == 0, self.emin, np.frexp(x)[1] - 1)",
        "np.frexp(x)[1] - 1",
        "tests/theory/test_chain.py -k limit_of_atoms",
    ),
    "an infinite error is not a number": Mutant(
        "theory/chain.py",
        "        if math.isinf(self._second):\n            return math.inf\n",
        "",
        "tests/theory/test_chain.py -k can_overflow",
    ),
}
