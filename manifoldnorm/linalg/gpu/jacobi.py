"""Eigendecomposition of small symmetric matrices in registers: Cholesky, then one-sided Jacobi on the factor.

A = L L^T; rotations that make the columns of L orthogonal turn it into U diag(s), so that A = U diag(s^2) U^T. U is
orthogonal however small an eigenvalue is, and the eigenvalues of a positive definite matrix are relatively as accurate
as its Cholesky factor. A matrix without a sound factor is first shifted to be positive definite. A result does not
depend on the other matrices of a program. Demmel and Veselić, SIAM J. Matrix Anal. Appl. 13 (1992).
"""

from __future__ import annotations

from manifoldnorm.linalg.gpu._triton import jit, tl


@jit
def root(x):
    """Return the square root, rounded to nearest."""
    if x.dtype == tl.float32:
        return tl.sqrt_rn(x)
    else:
        return tl.sqrt(x)


@jit
def quotient(x, y):
    """Return x / y, rounded to nearest."""
    if y.dtype == tl.float32:
        return tl.div_rn(x, y)
    else:
        return x / y


@jit
def inverse(x):
    """Return 1 / x, rounded to nearest."""
    return quotient(tl.full(x.shape, 1.0, x.dtype), x)


@jit
def power_of_two(exponent, DOUBLE: tl.constexpr):
    """Return 2^exponent for exponents of normal numbers."""
    if DOUBLE:
        return ((exponent.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
    else:
        return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@jit
def exponents(largest, DOUBLE: tl.constexpr):
    """Return two numbers whose sum is the exponent of ``largest`` (of the least normal number, if it is denormal)."""
    if DOUBLE:
        exponent = ((largest.to(tl.int64, bitcast=True) >> 52) - 1023).to(tl.int32)
    else:
        exponent = (largest.to(tl.int32, bitcast=True) >> 23) - 127
    first = exponent >> 1  # one factor of the whole exponent could leave the range
    return first, exponent - first


@jit
def tangent(gap, product, sign, rotate):
    """Return the tangent of the angle that makes two columns orthogonal; ``sign`` is that of a tie."""
    cotangent = quotient(gap, 2.0 * tl.where(rotate, product, 1.0))
    size = tl.abs(cotangent)
    bounded = tl.minimum(size, 1e9)  # its square must not overflow; from there on the root is the cotangent
    largest = size + tl.maximum(size, root(1.0 + bounded * bounded))
    t = quotient(tl.where(cotangent < 0.0, -1.0, tl.where(cotangent > 0.0, 1.0, sign)).to(size.dtype), largest)
    return tl.where(rotate, t, 0.0)


@jit
def factor(a, n, shift, DOUBLE: tl.constexpr, T: tl.constexpr, N: tl.constexpr):
    """Return the Cholesky factors of A + shift (T, N, N) and whether every pivot is well above rounding (T,)."""
    margin = 4 * n * (2.220446049250313e-16 if DOUBLE else 1.1920928955078125e-07)
    floor = 1e-290 if DOUBLE else 1e-30  # products of smaller columns would underflow
    index = tl.arange(0, N)[None, :]
    rows = tl.arange(0, N)[None, :, None]
    columns = tl.arange(0, N)[None, None, :]
    x = a + tl.where(rows == columns, shift[:, None, None], 0.0)
    start = tl.sum(tl.where(rows == columns, x, 0.0), 1)
    sound = tl.full((T,), 1, tl.int32)
    for j in range(n):
        here = tl.where(index >= j, tl.sum(tl.where(rows == j, x, 0.0), 1), 0.0)  # row j: a column would cross lanes
        pivot = tl.sum(tl.where(index == j, here, 0.0), 1)
        enough = pivot > tl.maximum(margin * tl.sum(tl.where(index == j, start, 0.0), 1), floor)
        sound = tl.where(enough, sound, 0)
        column = here * tl.where(enough, inverse(root(tl.where(enough, pivot, 1.0))), 0.0)[:, None]
        down = column[:, :, None]
        x = tl.where(columns == j, down, x - down * column[:, None, :])
    return tl.where((rows >= columns) & (columns < n), x, 0.0), sound


@jit
def orthogonalise(x, n, DOUBLE: tl.constexpr, LIMIT: tl.constexpr, T: tl.constexpr, N: tl.constexpr):
    """Return X V with orthogonal columns, by sweeps over all pairs of columns, and whether they ended (T,)."""
    tolerance = tl.maximum(tl.sqrt(n.to(tl.float32)), 2.0)
    tolerance *= 2.220446049250313e-16 if DOUBLE else 1.1920928955078125e-07
    column = tl.arange(0, N)
    last = (n + 1) // 2 * 2 - 1  # pairs meet as in a tournament of an even number of teams
    sweeps = 0
    going = 1
    unfinished = tl.full((T, N), 0, tl.int32)
    while (sweeps < LIMIT) & (going > 0):
        unfinished = tl.full((T, N), 0, tl.int32)
        for r in range(last):
            partner = 2 * r - column
            partner = tl.where(partner < 0, partner + last, tl.where(partner >= last, partner - last, partner))
            partner = tl.where(column == last, r, tl.where(column == r, last, partner))
            partner = tl.where(column > last, column, partner)
            other = tl.gather(x, tl.broadcast_to(partner[None, None, :], (T, N, N)), 2)
            square = tl.sum(x * x, 1)
            product = tl.sum(x * other, 1)
            opposite = tl.gather(square, tl.broadcast_to(partner[None, :], (T, N)), 1)
            bound = tl.sqrt(square) * tl.sqrt(opposite)
            rotate = (tl.abs(product) > 0.5 * tolerance * bound) & (column != partner)[None, :]
            # both columns of a pair compute the same angle with opposite signs: every step is odd in the exchange
            sign = tl.where(column < partner, 1.0, -1.0)[None, :].to(x.dtype)
            t = tangent(opposite - square, product, sign, rotate)
            c = inverse(root(1.0 + t * t))
            s = t * c
            half = quotient(s, 1.0 + c)
            # x cos - y sin as x plus a correction: small angles then leave no trace in the norm (Rutishauser)
            x -= s[:, None, :] * (other + half[:, None, :] * x)
            unfinished = tl.where(rotate & (tl.abs(product) > tolerance * bound), 1, unfinished)
        going = tl.max(tl.max(unfinished, 1), 0)
        sweeps += 1
    return x, tl.max(unfinished, 1) == 0


@jit(do_not_specialize=["batch", "n"])
def eigen_kernel(
    matrices,
    values,
    vectors,
    batch,
    n,
    VECTORS: tl.constexpr,
    DOUBLE: tl.constexpr,
    LIMIT: tl.constexpr,
    T: tl.constexpr,
    N: tl.constexpr,
):
    """Decompose T matrices: ascending values (batch, n) and eigenvectors as rows (batch, n, n)."""
    which = tl.program_id(0).to(tl.int64) * T + tl.arange(0, T)
    index = tl.arange(0, N)[None, :]
    rows = tl.arange(0, N)[None, :, None]
    columns = tl.arange(0, N)[None, None, :]
    inside = (which < batch)[:, None, None] & (rows < n) & (columns < n)
    start = (which * n * n)[:, None, None]
    upper = tl.load(matrices + start + rows * n + columns, mask=inside, other=0.0)
    lower = tl.load(matrices + start + columns * n + rows, mask=inside, other=0.0)
    high = tl.maximum(tl.abs(upper), tl.abs(lower))
    broken = tl.where((high < float("inf")) & (upper == upper) & (lower == lower), 0, 1)
    bad = tl.max(tl.max(broken, 2), 1) > 0
    gone = bad[:, None, None]
    upper = tl.where(gone, 0.0, upper)
    lower = tl.where(gone, 0.0, lower)
    largest = tl.max(tl.max(tl.where(gone, 0.0, high), 2), 1)
    first, second = exponents(tl.where(largest > 0.0, largest, 1.0).to(largest.dtype), DOUBLE)
    once = power_of_two(-first, DOUBLE)[:, None, None]
    twice = power_of_two(-second, DOUBLE)[:, None, None]
    x = 0.5 * (upper * once * twice) + 0.5 * (lower * once * twice)

    size = tl.sqrt(tl.sum(tl.sum(x * x, 2), 1))
    radius = tl.sum(tl.abs(x), 1) - tl.sum(tl.where(rows == columns, tl.abs(x) + x, 0.0), 1)  # Gershgorin's
    enough = tl.minimum(tl.max(tl.where(index < n, radius, 0.0), 1), size) + 0.0625 * size
    enough = tl.where(size > 0.0, enough, 1.0).to(size.dtype)
    shift = tl.zeros((T,), x.dtype)
    low, sound = factor(x, n, shift, DOUBLE, T, N)
    if tl.min(sound, 0) == 0:
        shift = tl.where(sound == 0, enough, shift)
        low, sound = factor(x, n, shift, DOUBLE, T, N)  # bit for bit the same where the shift is still zero
    low, ended = orthogonalise(low, n, DOUBLE, LIMIT, T, N)

    square = tl.sum(low * low, 1)
    w = tl.where(index < n, square - shift[:, None], float("inf"))
    over = w[:, :, None]
    across = w[:, None, :]
    place = tl.sum(((over < across) | ((over == across) & (rows < columns))).to(tl.int32), 1)
    w = w * power_of_two(first, DOUBLE)[:, None] * power_of_two(second, DOUBLE)[:, None]
    w = tl.where((bad | (ended == 0))[:, None], float("nan"), w)
    present = (which < batch)[:, None] & (index < n)
    tl.store(values + which[:, None] * n + place, w, mask=present)
    if VECTORS:
        length = root(tl.where(square > 0.0, square, 1.0).to(square.dtype))
        tl.store(vectors + start + place[:, None, :] * n + rows, low * inverse(length)[:, None, :], mask=inside)


@jit(do_not_specialize=["batch"])
def eigen_kernel_2(matrices, values, vectors, batch, VECTORS: tl.constexpr, DOUBLE: tl.constexpr, BLOCK: tl.constexpr):
    """Decompose 2 x 2 matrices in closed form: one rotation, stable at ties; the smaller value from the determinant."""
    which = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    present = which < batch
    start = matrices + 4 * which
    a = tl.load(start, mask=present, other=0.0)
    b = tl.load(start + 1, mask=present, other=0.0)
    e = tl.load(start + 2, mask=present, other=0.0)
    d = tl.load(start + 3, mask=present, other=0.0)
    infinite = float("inf")
    good = (tl.abs(a) < infinite) & (tl.abs(b) < infinite) & (tl.abs(d) < infinite) & (tl.abs(e) < infinite)
    largest = tl.maximum(tl.maximum(tl.abs(a), tl.abs(d)), tl.maximum(tl.abs(b), tl.abs(e)))
    largest = tl.where(good & (largest > 0.0), largest, 1.0).to(a.dtype)
    first, second = exponents(largest, DOUBLE)
    once = power_of_two(-first, DOUBLE)
    twice = power_of_two(-second, DOUBLE)
    a = tl.where(good, a, 0.0) * once * twice
    d = tl.where(good, d, 0.0) * once * twice
    b = 0.5 * (tl.where(good, b, 0.0) * once * twice) + 0.5 * (tl.where(good, e, 0.0) * once * twice)

    straight = a <= d
    rotate = b != 0.0
    sign = tl.where(b < 0.0, -1.0, 1.0).to(a.dtype)
    t = tangent(d - a, b, sign, rotate)
    moved = tl.abs(t * b)
    low = tl.minimum(a, d) - moved
    high = tl.maximum(a, d) + moved
    square = b * b
    determinant = tl.fma(a, d, -square) + tl.fma(-b, b, square)
    upwards = tl.abs(high) >= tl.abs(low)
    large = tl.where(upwards, high, low)
    small = quotient(determinant, tl.where(large == 0.0, 1.0, large).to(a.dtype))
    low, high = tl.minimum(large, small), tl.maximum(large, small)
    low = tl.where(good, low * power_of_two(first, DOUBLE) * power_of_two(second, DOUBLE), float("nan"))
    high = tl.where(good, high * power_of_two(first, DOUBLE) * power_of_two(second, DOUBLE), float("nan"))
    tl.store(values + 2 * which, low, mask=present)
    tl.store(values + 2 * which + 1, high, mask=present)
    if VECTORS:
        c = inverse(root(1.0 + t * t))
        s = t * c
        rows = vectors + 4 * which
        tl.store(rows, tl.where(straight, c, s), mask=present)
        tl.store(rows + 1, tl.where(straight, -s, c), mask=present)
        tl.store(rows + 2, tl.where(straight, s, c), mask=present)
        tl.store(rows + 3, tl.where(straight, c, -s), mask=present)
