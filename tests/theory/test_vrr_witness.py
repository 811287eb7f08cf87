"""The VRR against a 50-digit witness, and the error bounds that its evaluation states."""

import importlib
import math

import mpmath as mp
import numpy as np
import pytest
from scipy import special

from theory.vrr import variance_lost, vrr

module = importlib.import_module("theory.vrr")  # theory.vrr itself may name the function
ACCURACY = 2e-12  # stated by variance_lost


# The witness: the theorem as printed, in mpmath, sharing no code with theory.vrr.


def alphas(m_acc, m_p):
    """alpha_{j_r} for j_r = 1..m_p + 1; the last is alpha."""
    terms = [mp.mpf(2) ** j * (2**j - 1) * (2 ** (j + 1) - 1) for j in range(1, m_p + 1)]
    return [mp.mpf(2) ** (m_acc - 3 * m_p) / 3 * mp.fsum(terms[:j]) for j in range(m_p + 1)]


def tail(x):
    return mp.erfc(x / mp.sqrt(2)) / 2


def lost_directly(m_acc, m_p, n, sums=None):
    """1 - VRR; `sums(f, first, n)` adds f(i) for first <= i < n, one by one by default."""
    stage, t = alphas(m_acc, m_p), mp.mpf(2) ** m_acc
    alpha = stage[-1]
    first = max(2, int(mp.floor(alpha)) + 1)

    def outcome(i):
        p = 2 * tail(t / mp.sqrt(i)) * (1 - 2 * tail(t / mp.sqrt(i - 1)))
        return mp.matrix([p, (i - alpha) * p])

    k, kept = (sums or one_by_one)(outcome, first, n)
    for j in range(2, m_p + 1):
        if n > stage[j - 1]:
            low, high = (mp.mpf(2) ** (m_acc - m_p + e) for e in (j - 1, j))
            p = high * 2 * tail(low / mp.sqrt(n)) * (1 - 2 * tail(high / mp.sqrt(n)))
            k, kept = k + p, kept + (n - stage[j - 1]) * p
    k3 = 1 - 2 * tail(mp.mpf(2) ** (m_acc - m_p + 1) / mp.sqrt(n))
    return 1 - (kept + n * k3) / ((k + k3) * n)


def one_by_one(f, first, n):
    return sum((f(mp.mpf(i)) for i in range(first, n)), mp.zeros(2, 1))


def euler_maclaurin(t):
    """Adds short-scaled terms, then mpmath's quadrature on octaves and six Bernoulli terms."""

    def sums(f, first, n):
        first = max(first, int(t * t / (t * t / n + 240)))  # q below it is under e^-120 q_n
        split = min(n, max(first, 30 + math.ceil(math.sqrt(900 + 30 * t * t))))
        total = one_by_one(f, first, split)
        edges = [split * 2**k for k in range(n.bit_length()) if split * 2**k < n] + [n]
        for part in (0, 1):
            g = lambda x, part=part: f(x)[part]  # noqa: E731
            value, error = mp.quad(g, edges, error=True)
            assert error < mp.mpf(10) ** -30 * value
            ends = [mp.taylor(g, mp.mpf(x), 11) for x in (split, n)]
            value += (ends[0][0] - ends[1][0]) / 2
            for r in range(1, 7):
                rise = mp.factorial(2 * r - 1) * (ends[1][2 * r - 1] - ends[0][2 * r - 1])
                value += mp.bernoulli(2 * r) / mp.factorial(2 * r) * rise
            total[part] += value
        return total

    return sums


@pytest.mark.parametrize(
    ("m_acc", "m_p", "n"),
    [(1, 2, 2), (1, 5, 1), (3, 2, 100), (4, 5, 2000), (6, 5, 3000), (7, 12, 500), (8, 1, 100)],
)
def test_witness_term_by_term(m_acc, m_p, n):
    """(8, 1, 100) loses 4e-146: relative accuracy, not a difference of numbers close to 1."""
    with mp.workdps(200 if n == 100 else 50):
        witness = lost_directly(m_acc, m_p, n)
        assert abs(variance_lost(m_acc, m_p, n=n) / witness - 1) < ACCURACY


def test_witness_of_the_chunked_value_that_the_spec_rounds_up():
    with mp.workdps(50):
        witness = (1 - lost_directly(8, 5, 128)) * (1 - lost_directly(8, 8, 512))
    assert abs(vrr(8, n=65536, chunk=128) / witness - 1) < 1e-15
    assert round(float(witness), 6) == 0.999448


@pytest.mark.parametrize(
    ("m_acc", "m_p", "n"),
    [(2, 5, 2**40), (5, 5, 10**6), (17, 5, 2**40), (20, 1, 2**33), (20, 5, 2**40)]
    + [
        pytest.param(m, p, 2**e, marks=pytest.mark.slow)
        for m, p, e in [(1, 3, 50), (8, 5, 40), (9, 8, 33), (10, 5, 24), (12, 5, 30), (22, 5, 40)]
    ],
)
def test_witness_by_quadrature(m_acc, m_p, n):
    """(20, 1, 2^33) loses 2e-23 to the steep part, where q_n is e^-64."""
    with mp.workdps(85 if m_p == 1 else 50):
        witness = lost_directly(m_acc, m_p, n, euler_maclaurin(2**m_acc))
        assert abs(variance_lost(m_acc, m_p, n=n) / witness - 1) < ACCURACY


# The bounds stated in theory.vrr._sum_smooth, evaluated. s = T^2/2i, the log slope of q_i.

SLOPES = [0.0, *np.geomspace(1e-4, module._UNDERFLOW / 2, 30)]


def relative_q(z, x, s):
    """|q(z)/q(x)| for complex z, where T^2 = 2 s x; scaled functions, so nothing underflows."""
    w, w0 = np.sqrt(s * x / z), math.sqrt(s)
    late, late0 = np.sqrt(s * x / (z - 1)), math.sqrt(s * x / (x - 1))
    outer = special.erfcx(w) / special.erfcx(w0) * np.exp(s - s * x / z)
    inner = special.erf(late) / special.erf(late0) if s else np.sqrt((x - 1) / (z - 1))
    return np.abs(outer * inner)


def test_what_the_end_corrections_leave_out():
    """367/967680 * 6! max|q|/r^6, r = 3L/4, is below 1e-13 of q, and L q sums to less than 2.

    |n - z| <= (n - i) + L on the disc, hence the second part: sum L_i q_i over the integrated
    range against sum (n - i) q_i over all of it.
    """
    circle = np.exp(1j * np.linspace(0, 2 * np.pi, 400))
    scale = module._SMOOTH
    for s in SLOPES:
        x = scale * (1 + s)
        largest = relative_q(x + 0.75 * scale * circle, x, s).max()
        assert 3 * 367 / 967680 * math.factorial(6) * largest / (0.75 * scale) ** 6 < 1e-13
    for m_acc in range(1, 13):
        t2 = 4.0**m_acc
        i = np.arange(2.0, 400_000)
        q_i = special.erfc(np.sqrt(t2 / 2 / i)) * special.erf(np.sqrt(t2 / 2 / (i - 1)))
        length = i / (1 + t2 / 2 / i)
        disc = np.cumsum(np.where(length >= scale, length * q_i, 0))
        kept = np.cumsum(np.cumsum(q_i))  # at n: sum (n - i) q_i
        assert (disc <= 2 * kept).all()


def test_what_the_quadrature_leaves_out():
    """Gauss with N nodes errs by 4h times the best polynomial of degree 2N - 1, 2M rho^-63/(rho-1).

    M is the largest |(top - z) q(z)| on the ellipse rho about the panel; top at its very end is
    the worst case. Compared with the panel's integral, or where that is longer, with L q.
    """
    node, weight = np.polynomial.legendre.leggauss(200)
    circle = np.exp(1j * np.linspace(0, 2 * np.pi, 2000))
    degree = 2 * module._NODES - 1
    for s in SLOPES:
        x = module._SMOOTH * (1 + s)  # right end; the shortest length scale there is
        half = x * (1 - 2 ** (-1 / module._PANELS)) / 2
        points = x - half + half * node
        for power in (0, 1):
            integral = half * weight @ ((x - points) ** power * relative_q(points, x, s))
            bounds = []
            for rho in (3, 4, 6, 9, 14, 20, 30):
                z = x - half + half * (rho * circle + 1 / (rho * circle)) / 2
                largest = (np.abs(x - z) ** power * relative_q(z, x, s)).max()
                bounds.append(8 * half * largest * float(rho) ** -degree / (rho - 1))
            assert min(bounds) < 1e-13 * integral
