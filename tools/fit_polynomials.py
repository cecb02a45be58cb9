"""Fits the polynomials of csrc/common/vec_math_cpu.h, and says how near the kept ones are.

    python tools/fit_polynomials.py

Each is the polynomial of its degree with the smallest largest error on its interval, found as a
linear program over a fine grid, with its coefficients then rounded to float32 one after the other,
the highest first, and the others fitted again. The kept ones are of an earlier fit: new ones would
change results, and their error is below a unit in the last place of float32 (6e-8).
Needs scipy.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.optimize import linprog

SOURCE = Path(__file__).resolve().parent.parent / "csrc" / "common" / "vec_math_cpu.h"
Function = Callable[[np.ndarray], np.ndarray]


def fit(powers: list[int], x: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Coefficients of x ** power, the highest first, with the least largest weighted error."""
    fixed = np.zeros_like(x)
    found: list[float] = []
    for n in range(len(powers)):
        scale = np.abs(x).max() ** np.array(powers[n:])  # of columns of size 1
        columns = np.stack([x**p for p in powers[n:]], 1) / scale * weight[:, None]
        rest = (target - fixed) * weight
        size = np.abs(rest).max()
        ones = np.full((len(x), 1), -1.0)
        rows = np.block([[columns, ones], [-columns, ones]])
        limits = np.concatenate([rest, -rest]) / size
        goal = np.zeros(columns.shape[1] + 1)
        goal[-1] = 1.0
        best = linprog(goal, rows, limits, bounds=(None, None), method="highs-ds")
        assert best.success, best.message
        found.append(float(np.float32(best.x[0] * size / scale[0])))
        fixed = fixed + found[-1] * x ** powers[n]
    return np.array(found)


def kept(function: str) -> list[float]:
    """The coefficients in the source, the highest first; a last one of 1 or -1/2 is exact."""
    text = SOURCE.read_text()
    body = text[text.index(f"{function}(vec<float>") :]
    lines = body[: body.index("return")].splitlines()
    found = []
    for line in lines:
        if match := re.match(
            r"\s*(?:vec<float> )?p = .*?([-+(]) ?(-?)(0x1\.[0-9a-f]+p-\d+)f", line
        ):
            negative = (match[1] == "-") != (match[2] == "-")
            found.append(-float.fromhex(match[3]) if negative else float.fromhex(match[3]))
    assert found, f"{SOURCE} has no polynomial in {function}"
    return found


def report(
    name: str, powers: list[int], x: np.ndarray, target: np.ndarray, weight: np.ndarray
) -> float:
    """Prints the coefficients in the source and the best ones; the ratio of their errors."""

    def error(coefficients: np.ndarray) -> float:
        value = sum(c * x**p for c, p in zip(coefficients, powers, strict=True))
        return float(np.abs((value - target) * weight).max())

    ours, best = np.array(kept(name)), fit(powers, x, target, weight)
    for power, a, b in zip(powers, ours, best, strict=True):
        print(f"  f^{power}: kept {a.hex():>24}  fitted {b.hex():>24}")
    print(f"{name}: largest error {error(ours):.3g}, of the fit {error(best):.3g}")
    return error(ours) / error(best)


def exp2_of_parts() -> float:
    """2^f - 1 for |f| <= 1/2; the error is relative to 2^f."""
    f = 0.5 * np.cos(np.pi * (np.arange(800) + 0.5) / 800)
    target = np.expm1(f * np.log(2.0))
    return report("exp2_of_parts", [6, 5, 4, 3, 2, 1], f, target, 2.0**-f)


def log1p_polynomial() -> float:
    """log(1 + f) - f + f^2 / 2 for 1 + f in [sqrt(1/2), sqrt(2)]; the error is relative to f."""
    low, high = np.sqrt(0.5) - 1, np.sqrt(2.0) - 1
    f = (low + high) / 2 + (high - low) / 2 * np.cos(np.pi * (np.arange(800) + 0.5) / 800)
    series = sum((-1.0) ** (k + 1) * f**k / k for k in range(3, 25))  # near 0, where log1p cancels
    target = np.where(np.abs(f) < 0.05, series, np.log1p(f) - f + f * f / 2)
    return report("log1p_polynomial", [10, 9, 8, 7, 6, 5, 4, 3], f, target, 1 / np.abs(f))


def log1p_unit() -> float:
    """log(1 + x) - x for 0 <= x <= 1; the error is relative to log(1 + x)."""
    x = 0.5 + 0.5 * np.cos(np.pi * (np.arange(800) + 0.5) / 800)
    return report("log1p_unit", list(range(10, 1, -1)), x, np.log1p(x) - x, 1 / np.log1p(x))


if __name__ == "__main__":
    if max(exp2_of_parts(), log1p_polynomial(), log1p_unit()) > 2:
        raise SystemExit("a kept polynomial has more than twice the error that its degree allows")
