"""Cloud mask over image tiles: which pixels of a scene are cloud, from a visible and a thermal band.

Each unit is one 128 x 128 window of the scene: smoothing and texture by integral images, four clusters over
(brightness, cold, texture), the bright cold ones taken as cloud, then a majority filter against speckle. All
arithmetic is on integers, so that the result is the same on every machine.

The mask file is the checkpoint: one packed window is appended per unit, so a killed run goes on where it was.
"""

import argparse
from pathlib import Path

import numpy as np
import sdk

TILE = 128
TILE_OCTETS = TILE * TILE // 8
STRIDE = 37  # coprime to the scene's 256, so that successive windows are all different


def box_sum(image: np.ndarray, radius: int) -> np.ndarray:
    """Sum over a (2 radius + 1) square around each pixel, edges repeated, by an integral image."""
    size = 2 * radius + 1
    padded = np.pad(image, radius, mode="edge").cumsum(0).cumsum(1)
    padded = np.pad(padded, ((1, 0), (1, 0)))
    return padded[size:, size:] - padded[:-size, size:] - padded[size:, :-size] + padded[:-size, :-size]


def window(scene: np.ndarray, number: int) -> np.ndarray:
    """Return the window of a unit: the scene is read as a torus."""
    rows = (np.arange(TILE) + STRIDE * number) % scene.shape[1]
    columns = (np.arange(TILE) + STRIDE * (number // scene.shape[1] + 3 * number)) % scene.shape[2]
    return scene[:, rows[:, None], columns].astype(np.int64)


def features(visible: np.ndarray, thermal: np.ndarray) -> np.ndarray:
    """Brightness, cold and texture of each pixel, each 0..1020, shape (pixels, 3)."""
    texture = np.zeros_like(visible)
    for radius in (1, 2, 4, 8):
        count = (2 * radius + 1) ** 2
        mean = box_sum(visible, radius) // count
        texture += box_sum(visible * visible, radius) // count - mean * mean
    smooth = box_sum(visible, 1) * 4 // 9
    cold = (255 * 9 - box_sum(thermal, 1)) * 4 // 9
    return np.stack([smooth, cold, np.minimum(texture, 1020)], axis=-1).reshape(-1, 3)


def cloud_mask(visible: np.ndarray, thermal: np.ndarray) -> np.ndarray:
    """Return the mask of one window, True where there is cloud."""
    points = features(visible, thermal)
    centres = np.array([[200, 200, 100], [450, 400, 300], [650, 650, 400], [850, 850, 200]], dtype=np.int64)
    for _ in range(20):
        distances = ((points[:, None, :] - centres) ** 2).sum(axis=2)
        nearest = distances.argmin(axis=1)
        for k in range(len(centres)):
            members = points[nearest == k]
            if len(members):
                centres[k] = members.sum(axis=0) // len(members)
    cloudy = (centres[:, 0] > 560) & (centres[:, 1] > 520)
    mask = cloudy[nearest].reshape(visible.shape).astype(np.int64)
    for _ in range(3):
        mask = (box_sum(mask, 1) >= 5).astype(np.int64)
    return mask.astype(bool)


def main() -> None:
    """Mask `--units` windows; write the packed masks and a table of cloud fractions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=400)
    units = parser.parse_args().units
    scene = np.load("in/scene.npy")
    masks = Path("out/mask.bin")
    done = masks.stat().st_size // TILE_OCTETS if masks.exists() else 0
    done = min(done, units)
    with masks.open("ab") as out:
        out.truncate(done * TILE_OCTETS)
        sdk.progress(done)
        for number in range(done, units):
            out.write(np.packbits(cloud_mask(*window(scene, number))).tobytes())
            out.flush()
            sdk.progress(number + 1)
    packed = np.fromfile(masks, dtype=np.uint8).reshape(units, TILE_OCTETS)
    cloudy = np.unpackbits(packed, axis=1).sum(axis=1, dtype=np.int64)
    rows = [f"{n},{pixels * 1000 // TILE**2}\n" for n, pixels in enumerate(cloudy)]
    Path("out/cloud_permille.csv").write_text("window,cloud_permille\n" + "".join(rows))


if __name__ == "__main__":
    main()
