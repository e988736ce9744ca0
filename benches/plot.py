"""Draws docs/products.svg: products with a 4-bit weight, halfbyte's and other libraries', of one GPU.

    python benches/plot.py benches/results/<date>-<device>.csv benches/results/<date>-<device>-peers.csv
"""

import csv
import math
import sys
from pathlib import Path

PANELS = {"gate and up": "24576 x 4096", "down": "4096 x 12288", "q, k, v": "6144 x 4096", "o": "4096 x 4096"}
COLOURS = {
    "halfbyte": "#d1495b",
    "cuBLAS, bf16 weight": "#333333",
    "bitsandbytes": "#30638e",
    "tinygemm": "#edae49",
    "gemlite": "#66a182",
}
NAMES = {"cublas": "cuBLAS, bf16 weight"}
WIDTH, HEIGHT, LEFT, TOP = 330, 250, 52, 62
TOKENS, MICROSECONDS = (1, 1024), (8, 1000)


def rows(path, name):
    with open(path) as file:
        for row in csv.DictReader(file):
            if row["kernel"] == "linear4":
                tokens, shape = row["shape"].split(" x ", 1)
                yield shape, name(row), int(tokens), float(row["us"])


def curves(bench, peers):
    found = {}
    everything = [*rows(bench, lambda _: "halfbyte"), *rows(peers, lambda row: NAMES.get(row["peer"], row["peer"]))]
    for shape, name, tokens, us in everything:
        if TOKENS[0] <= tokens <= TOKENS[1]:
            found.setdefault((shape, name), []).append((tokens, us))
    return {key: sorted(points) for key, points in found.items()}


def share(value, limits):
    """Where it lies between the limits, by its logarithm."""
    low, high = map(math.log, limits)
    return (math.log(min(max(value, limits[0]), limits[1])) - low) / (high - low)


def panel(title, shape, found, left, top):
    def at(tokens, us):
        return left + share(tokens, TOKENS) * WIDTH, top + HEIGHT - share(us, MICROSECONDS) * HEIGHT

    yield f'<text x="{left}" y="{top - 8}" font-weight="bold">{title}: {shape}</text>'
    for tokens in (1, 4, 16, 64, 256, 1024):
        x, y = at(tokens, MICROSECONDS[0])
        yield f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{y:.1f}" class="grid"/>'
        yield f'<text x="{x:.1f}" y="{y + 15:.1f}" text-anchor="middle">{tokens}</text>'
    for us in (10, 30, 100, 300, 1000):
        x, y = at(TOKENS[0], us)
        yield f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x + WIDTH:.1f}" y2="{y:.1f}" class="grid"/>'
        yield f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{us}</text>'
    for name, colour in COLOURS.items():
        # What is above the panel ends at its edge.
        points = [point for point in found.get((shape, name), []) if point[1] <= MICROSECONDS[1]]
        line = " ".join("{:.1f},{:.1f}".format(*at(*point)) for point in points)
        yield f'<polyline points="{line}" stroke="{colour}" fill="none" stroke-width="{3 if name == "halfbyte" else 1.6}"/>'


def draw(found, device):
    step_x, step_y = WIDTH + LEFT + 24, HEIGHT + 52
    width, height = LEFT + 2 * step_x - 10, TOP + 2 * step_y + 4
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">'
    yield "<style>.grid{stroke:#ddd}</style>"
    yield f'<rect width="{width}" height="{height}" fill="white"/>'
    x = LEFT
    for name, colour in COLOURS.items():
        yield f'<line x1="{x}" y1="18" x2="{x + 22}" y2="18" stroke="{colour}" stroke-width="3"/>'
        yield f'<text x="{x + 28}" y="22">{name}</text>'
        x += 52 + 7 * len(name)
    yield f'<text x="{LEFT}" y="42" fill="#666">microseconds by tokens, {device}</text>'
    for i, (title, shape) in enumerate(PANELS.items()):
        yield from panel(title, shape, found, LEFT + i % 2 * step_x, TOP + 12 + i // 2 * step_y)
    yield "</svg>"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    bench, peers = map(Path, sys.argv[1:])
    device = bench.stem.split("-", 3)[-1].replace("-", " ").upper().replace("NVIDIA", "one")
    out = Path(__file__).resolve().parents[1] / "docs" / "products.svg"
    out.write_text("\n".join(draw(curves(bench, peers), device)) + "\n")
    print(out)


if __name__ == "__main__":
    main()
