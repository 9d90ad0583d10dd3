"""Dense linear algebra that checks itself: X <- (A X + B) mod p, over and over.

Entries stay below p < 2^21, so each product sum of 384 terms stays below 2^51 and is exact in float64: any
order of sums, any BLAS and any machine give the same matrix. Each unit is 20 steps, and each step is checked
with Freivalds' test (A X) r = A (X r), which finds a silent error in the product for the price of three
vectors.
"""

import argparse
import hashlib
import io
from pathlib import Path

import numpy as np
import sdk

SIZE = 384
PRIME = 2_097_143  # the largest prime below 2^21
STEPS_A_UNIT = 20
UNITS_A_CHECKPOINT = 5


def matrix(seed: int, columns: int = SIZE) -> np.ndarray:
    """Return entries 0..p-1 as float64, from a linear congruential sequence."""
    values = np.empty(SIZE * columns, dtype=np.float64)
    state = seed
    for index in range(values.size):
        state = (state * 48_271 + 11) % PRIME
        values[index] = state
    return values.reshape(SIZE, columns)


def unit(a: np.ndarray, b: np.ndarray, x: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Return X after one unit; ArithmeticError when a product fails its test."""
    for _ in range(STEPS_A_UNIT):
        product = np.fmod(a @ x, PRIME)
        if not np.array_equal(np.fmod(product @ r, PRIME), np.fmod(a @ np.fmod(x @ r, PRIME), PRIME)):
            raise ArithmeticError("a matrix product failed Freivalds' test")
        x = np.fmod(product + b, PRIME)
    return x


def save(x: np.ndarray, done: int) -> None:
    """Hand the matrix as it is now to the satellite."""
    octets = io.BytesIO()
    np.save(octets, x)
    sdk.checkpoint(done, octets.getvalue())


def main() -> None:
    """Run `--units` units; write the matrix and its SHA-256."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=60)
    units = parser.parse_args().units
    a, b, x, r = matrix(1), matrix(2), matrix(3), matrix(4, columns=1)
    done = 0
    saved = sdk.restore()
    if saved is not None:
        x, done = np.load(saved.path), saved.done_units
    sdk.progress(done)
    while done < units:
        x = unit(a, b, x, r)
        done += 1
        if done % UNITS_A_CHECKPOINT == 0 or sdk.should_save():
            save(x, done)
        sdk.progress(done)
    octets = x.astype("<u4").tobytes()
    Path("out/matrix.u32").write_bytes(octets)
    Path("out/sha256.txt").write_text(hashlib.sha256(octets).hexdigest() + "\n")


if __name__ == "__main__":
    main()
