"""Make `scene.npy`: a visible and a thermal band of 256 x 256 pixels with land, sea and broken cloud.

The fields are sums of random waves with a falling spectrum, as clouds have, from a fixed seed. The file is
part of the bundle; this program is here to show where it comes from.
"""

from pathlib import Path

import numpy as np

SIZE = 256


def waves(rng: np.random.Generator, slope: float) -> np.ndarray:
    """Return a periodic random field of mean 0 and deviation 1 with spectrum k^-slope."""
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE, 1 / SIZE), np.fft.fftfreq(SIZE, 1 / SIZE)))
    k[0, 0] = np.inf
    field = np.fft.ifft2(np.fft.fft2(rng.standard_normal((SIZE, SIZE))) * k**-slope).real
    return (field - field.mean()) / field.std()


def main() -> None:
    """Write the scene beside this file."""
    rng = np.random.default_rng(20240605)
    land = waves(rng, 1.8) > 0.2
    cover = np.clip(waves(rng, 1.5) * 0.9 - 0.1, 0.0, 1.5) / 1.5  # optical thickness, mostly clear
    height = np.clip(waves(rng, 2.0) * 0.3 + 0.6, 0.1, 1.0)
    visible = np.where(land, 70, 28) + 12 * waves(rng, 1.0) * land
    visible = visible * (1 - cover**0.5) + 235 * cover**0.5 + rng.normal(0, 2.0, (SIZE, SIZE))
    thermal = np.where(land, 205, 180) + 6 * waves(rng, 1.2)
    thermal = thermal * (1 - cover**0.4) + (190 - 150 * height) * cover**0.4 + rng.normal(0, 1.5, (SIZE, SIZE))
    scene = np.clip(np.rint(np.stack([visible, thermal])), 0, 255).astype(np.uint8)
    np.save(Path(__file__).with_name("scene.npy"), scene)


if __name__ == "__main__":
    main()
