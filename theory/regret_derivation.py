"""The steps to Theorems 1-3 of [hou2019analysis], with sympy; tests compare the pairs.

Each function returns (derived, printed). Where a step of the printed proof is an inequality, the
pair is the gap between both sides and a form of it whose sign is plain. The paper's displays are
re-derived (they are not in the text that could be read); printed forms are those of the spec.

The proof, for convex f_t and S a box, onto which clipping projects each coordinate:

  f_t(w_t) - f_t(w*) <= <g_t, w_t - w*> = <g^_t, w_t - w*> + <g_t - g^_t, w_t - w*>

The first product, per coordinate, is `step_identity`; with projection "<=", as clipping brings no
coordinate further from w*. Its sum over t is `telescoping`, which needs `monotone`, and gives the
first term of Theorem 1 by `moving_average` and `root_of_sum`. What is left is the second term:
`entry_of_second_term`, then `published_lemma` (printed) or `inverse_roots` (corrected). The second
product is H'_t (w_t - w^_t) by `mean_value`, at most sqrt L D ||w_t - w^_t||_H' by
`cauchy_schwarz` and H' <= L, and its floor is `floor_inside` with L. Under quantized gradients
E g~_t = g^_t, given the past, leaves the first product as it is, and Jensen's inequality puts
E||g~||^2 for ||g^||^2 under the roots (`jensen`); clipping adds <g^ - Clip(g^), w - w*>.
`regret_theorems` puts the steps together.
"""

from __future__ import annotations

import sympy as sp

Pair = tuple[sp.Expr, sp.Expr]

d, T, t, eta, G, G_inf, D, D_inf, L, W, alpha, Delta_w = sp.symbols(
    "d T t eta G G_inf D D_inf L W alpha Delta_w", positive=True
)
beta, R, Delta_g, c, sigma = sp.symbols("beta R Delta_g c sigma", positive=True)


def drift_factor(root: sp.Expr, step: sp.Expr) -> sp.Expr:
    """On (w - w*)^2 - (w' - w*)^2: a_t, where root is sqrt(v_t) and step eta / sqrt t."""
    return root / (2 * step)


def square_factor(root: sp.Expr, step: sp.Expr) -> sp.Expr:
    """On g^2, in the same product."""
    return step / (2 * root)


def step_identity() -> Pair:
    """The product g (w - w*), w' = w - eta_t g / sqrt v, from distances squared and the rest."""
    g, w, best = sp.symbols("g w w_best", real=True)
    root, step = sp.symbols("r eta_t", positive=True)  # sqrt(v_t), eta / sqrt t
    moved = w - step * g / root
    drift = drift_factor(root, step) * ((w - best) ** 2 - (moved - best) ** 2)
    return sp.expand(drift + square_factor(root, step) * g**2), sp.expand(g * (w - best))


def telescoping(steps: int) -> Pair:
    """The sum of a_t (x_t - x_(t+1)), a_t = sqrt(t v_t) / (2 eta), by rises of a.

    x_t = (w_t - w*)^2 <= D_inf^2: where a never falls the sum is at most D_inf^2 a_T; in general
    at most D_inf^2 times the sum of its rises.
    """
    a, x = sp.symbols(f"a0:{steps + 1}"), sp.symbols(f"x1:{steps + 2}")  # a_0 = 0
    direct = sum(a[i + 1] * (x[i] - x[i + 1]) for i in range(steps))
    rises = sum((a[i + 1] - a[i]) * x[i] for i in range(steps)) - a[steps] * x[steps]
    return sp.expand(direct.subs(a[0], 0)), sp.expand(rises.subs(a[0], 0))


def monotone() -> Pair:
    """The last t at which sqrt(t v_t) is sure to rise, beside 1 / (1 - beta).

    v_t >= beta v_(t-1), attained for g_t = 0: then t beta >= t - 1 is needed. Not in the paper.
    """
    (last,) = sp.linsolve([t * beta - t + 1], t)
    return last[0], 1 / (1 - beta)


def moving_average(steps: int) -> Pair:
    """v_T from v_t = beta v_(t-1) + (1 - beta) g_t^2, v_0 = 0, beside its sum."""
    g, v = sp.symbols(f"g1:{steps + 1}"), sp.Integer(0)
    for entry in g:
        v = beta * v + (1 - beta) * entry**2
    total = sum((1 - beta) * beta ** (steps - i) * entry**2 for i, entry in enumerate(g, 1))
    return sp.expand(v), sp.expand(total)


def sum_over_norm(dimension: sp.Expr) -> sp.Expr:
    """Largest (sum r_i)^2 / sum r_i^2 of that many entries: their number, where all are equal."""
    return dimension**2 / dimension


def root_of_sum(dimension: int) -> Pair:
    """The gap d sum v_i - (sum sqrt v_i)^2, beside a sum of squares."""
    r = sp.symbols(f"r1:{dimension + 1}", nonnegative=True)  # sqrt v_i
    gap = sum_over_norm(sp.Integer(dimension)) * sum(x**2 for x in r) - sum(r) ** 2
    squares = sum((x - y) ** 2 for i, x in enumerate(r) for y in r[:i])
    return sp.expand(gap), sp.expand(squares)


def entry_of_second_term() -> Pair:
    """g^2 / sqrt(t v) where v = (1 - beta) g^2, its least, beside |g| / sqrt((1 - beta) t)."""
    g = sp.Symbol("g", positive=True)
    return g**2 / sp.sqrt(t * (1 - beta) * g**2), g / sp.sqrt((1 - beta) * t)


def published_lemma() -> Pair:
    """Limit of sum_t |g_t| / sqrt t over 2 G_inf ||g_1:T||, printed as at most 1.

    For g_t = eps: eps 2 sqrt T over 2 eps eps sqrt T = 1 / eps. The printed lemma, as in
    [kingma2015adam, Lemma 10.3], is false for gradients below 1: it is not homogeneous in g. Nor
    is G_inf >= 1 enough: `published_lemma_shrinking`.
    """
    eps, T = sp.symbols("eps T", positive=True)
    sum_of_roots = sp.integrate(1 / sp.sqrt(t), (t, 0, T))  # less a constant, -zeta(1/2)
    return eps * sum_of_roots / (2 * eps * eps * sp.sqrt(T)), 1 / eps


def published_lemma_shrinking(steps: int) -> Pair:
    """The same quotient for g_t = 1 / sqrt t, G_inf = 1: sqrt(sum 1/t) / 2, above 1 from T = 31.

    In general sum_t |g_t| / sqrt t <= ||g|| sqrt(sum 1/t), with equality for these g
    (`cauchy_schwarz`), so that sum 1/t <= 4 G_inf^2 is enough for the lemma. So is every
    |g_t| >= 1, when sqrt T <= ||g|| and `inverse_roots` is all it takes.
    """
    g = [1 / sp.sqrt(sp.Integer(i)) for i in range(1, steps + 1)]
    left = sum(x / sp.sqrt(sp.Integer(i)) for i, x in enumerate(g, 1))
    return left / (2 * max(g) * sp.sqrt(sum(x**2 for x in g))), sp.sqrt(sp.harmonic(steps)) / 2


def inverse_root_sum(steps: sp.Expr) -> sp.Expr:
    """2 sqrt T, at least the sum of 1 / sqrt t, t = 1..T."""
    return 2 * sp.sqrt(steps)


def inverse_roots() -> Pair:
    """The gap sqrt t (2 sqrt t - 2 sqrt(t - 1) - 1 / sqrt t), a square: sum 1/sqrt t <= 2 sqrt T.

    With sum_i |g_i| <= sqrt d ||g|| this bounds the second term by eta G sqrt(d T) / sqrt(1-beta).
    """
    gain = inverse_root_sum(t) - inverse_root_sum(t - 1) - 1 / sp.sqrt(t)
    return sp.expand(sp.sqrt(t) * gain), sp.expand((sp.sqrt(t) - sp.sqrt(t - 1)) ** 2)


def expected_norm(square: sp.Expr) -> sp.Expr:
    """sqrt(E x^2), at least E|x|."""
    return sp.sqrt(square)


def jensen() -> Pair:
    """The gap E x^2 - (E x)^2 of a value that is x or y, the latter with probability p.

    A mean of more values is one of two in turn.
    """
    x, y = sp.symbols("x y", positive=True)
    p = sp.Symbol("p", nonnegative=True)
    most = expected_norm((1 - p) * x**2 + p * y**2)
    return sp.expand(most**2 - ((1 - p) * x + p * y) ** 2), sp.expand(p * (1 - p) * (x - y) ** 2)


def mean_value() -> Pair:
    """H' (w - w^), H' the mean of f'' on the segment from w^ to w, beside f'(w) - f'(w^).

    The chain rule; here for every polynomial f of degree four.
    """
    w, hat, s = sp.symbols("w w_hat s", real=True)
    slope = sum(k * x * s ** (k - 1) for k, x in enumerate(sp.symbols("p0:5")))
    along = sp.diff(slope, s).subs(s, hat + s * (w - hat))
    mean = sp.integrate(sp.expand(along), (s, 0, 1))
    return sp.expand(mean * (w - hat)), sp.expand(slope.subs(s, w) - slope.subs(s, hat))


def cauchy_schwarz() -> Pair:
    """||x||_H^2 ||y||_H^2 - <Hx, y>^2 for H = A^T A of two weights, beside a square."""
    A = sp.Matrix(2, 2, sp.symbols("a11 a12 a21 a22", real=True))
    x, y = (sp.Matrix(sp.symbols(f"{n}1:3", real=True)) for n in "xy")
    H = A.T * A
    gap = (x.T * H * x)[0] * (y.T * H * y)[0] - (x.T * H * y)[0] ** 2
    return sp.expand(gap), sp.expand((A.det() * (x[0] * y[1] - x[1] * y[0])) ** 2)


def floor_inside() -> Pair:
    """Largest |w - alpha b| between two codes Delta_w apart, beside alpha Delta_w / 2.

    Rounded to the nearer one, and equal where both are equally far.
    """
    w, code = sp.symbols("w b", real=True)
    far = sp.solve(sp.Eq(w - alpha * code, alpha * (code + Delta_w) - w), w)[0]
    return sp.simplify(far - alpha * code), alpha * Delta_w / 2


def floor_binary() -> Pair:
    """The same between -alpha and alpha, beside what the printed Delta_w = 1 makes of it.

    They differ by a factor of two: the codes of binary weights are 2 apart.
    """
    derived, formula = floor_inside()
    return derived.subs(Delta_w, 2), formula.subs(Delta_w, 1)


def best_step() -> Pair:
    """The eta that minimises the corrected K, and K there: D_inf sqrt 2 (1 - beta)^(-1/4)."""
    K = D_inf**2 / (2 * eta) + eta / sp.sqrt(1 - beta)
    best = D_inf * (1 - beta) ** sp.Rational(1, 4) / sp.sqrt(2)
    assert sp.simplify(sp.diff(K, eta).subs(eta, best)) == 0
    return sp.simplify(K.subs(eta, best)), sp.sqrt(2) * D_inf * (1 - beta) ** -sp.Rational(1, 4)


def sgd_slowdown() -> tuple[list[sp.Expr], list[sp.Expr]]:
    """SGD's speed term at R over that at 1: with the best eta for R = 1, then with each its own."""
    bound = D**2 / (2 * eta) + R * eta * G**2

    def best(at):
        return D / (sp.sqrt(2 * at) * G)

    assert sp.simplify(sp.diff(bound, eta).subs(eta, best(R))) == 0
    full = bound.subs({R: 1, eta: best(1)})
    ratios = [bound.subs(eta, best(1)) / full, bound.subs(eta, best(R)) / full]
    return [sp.simplify(r) for r in ratios], [(1 + R) / 2, sp.sqrt(R)]
