"""Draws the console's pages for docs/images from a recorded pass: python tests/ground/console_images.py ARCHIVE TIME.

Needs a Chromium for the step from SVG to PNG. The archive of docs is that of `hil run day_iss --duration "8 h"`.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ground.archive import Archive
from ground.cli.options import instant
from ground.console.app import Console
from ground.console.model import Model
from ground.console.views import Status
from ground.passes import load

ROOT = Path(__file__).resolve().parents[2]
IMAGES = (
    ("console_80x24", (80, 24), ("1",)), ("console_160x50", (160, 50), ("1",)),
    ("console_jobs", (80, 24), ("4", "end")),
    ("console_palette", (80, 24), ("colon", *"param.set die_max_c 12")),
)


def main() -> None:
    archive, at_s = Path(sys.argv[1]), instant(sys.argv[2])
    for name, size, keys in IMAGES:
        with Archive(archive, read_only=True) as reader:
            model = Model(reader, load(ROOT / "missions" / "iss_like.toml"))
            model.start(at_s)
            app = Console(archive, model, lambda: at_s, lambda: Status("/dev/ttyUSB0 115200"))

            async def draw(app: Console = app, size: tuple[int, int] = size, keys: tuple[str, ...] = keys) -> str:
                async with app.run_test(size=size) as pilot:
                    await pilot.pause(0.3)
                    await pilot.press(*keys)
                    await pilot.pause(0.6)
                    return app.export_screenshot()

            save(asyncio.run(draw()), ROOT / "docs" / "images" / f"{name}.png")


def save(svg: str, path: Path) -> None:
    """Turn an SVG into a PNG of its own size, with the machine's fonts."""
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code", "DejaVu Sans Mono")
    width, height = (float(word) for word in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(f'<body style="margin:0;background:#000">{svg}</body>')
        subprocess.run([shutil.which("chromium") or "chromium", "--headless", "--no-sandbox", "--disable-gpu",
                        "--hide-scrollbars", f"--window-size={int(width)},{int(height)}", f"--screenshot={path}",
                        str(page)], check=True, capture_output=True)


if __name__ == "__main__":
    main()
