"""Draws docs/loss.svg: the loss of training runs, step by step, in one picture.

    python benches/plot_loss.py NAME=metrics.jsonl NAME=metrics.jsonl

The second is drawn thin and dark over the first, and below them what it is more or less, a hundred times as large and cut
at the edge.
"""

import json
import sys
from pathlib import Path

COLOURS = ("#edae49", "#30638e")
WIDTH, HEIGHT, LEFT, TOP = 640, 260, 56, 44
DIFFERENCE, SCALE = 90, 100


def losses(path):
    with open(path) as file:
        rows = [json.loads(line) for line in file]
    return {row["step"]: row["loss"] for row in rows if row.get("loss") is not None and "step" in row}


def line(points, colour, width):
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{text}" stroke="{colour}" fill="none" stroke-width="{width}"/>'


def draw(runs):
    steps = sorted(set.intersection(*(set(run) for run in runs.values())))
    every = [run[step] for run in runs.values() for step in steps]
    low, high = min(every), max(every)
    x = lambda step: LEFT + (step - steps[0]) / (steps[-1] - steps[0]) * WIDTH
    y = lambda loss: TOP + (high - loss) / (high - low) * HEIGHT
    middle = TOP + HEIGHT + 24 + DIFFERENCE / 2
    width, height = LEFT + WIDTH + 16, middle + DIFFERENCE / 2 + 26
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" font-family="sans-serif" font-size="12">'
    yield "<style>.grid{stroke:#ddd}</style>"
    yield f'<rect width="{width}" height="{height:.0f}" fill="white"/>'
    for i in range(5):
        loss = low + (high - low) * i / 4
        yield f'<line x1="{LEFT}" y1="{y(loss):.1f}" x2="{LEFT + WIDTH}" y2="{y(loss):.1f}" class="grid"/>'
        yield f'<text x="{LEFT - 6}" y="{y(loss) + 4:.1f}" text-anchor="end">{loss:.2f}</text>'
    for step in steps[:: max(len(steps) // 8, 1)]:
        yield f'<text x="{x(step):.1f}" y="{height - 8:.0f}" text-anchor="middle">{step}</text>'
    for i, (name, run) in enumerate(runs.items()):
        yield line([(x(step), y(run[step])) for step in steps], COLOURS[i], 4 - 2.8 * i)
        yield f'<text x="{LEFT + i * 320}" y="22" fill="{COLOURS[i]}" font-weight="bold">{name}</text>'
    first, second = runs.values()
    yield f'<line x1="{LEFT}" y1="{middle:.1f}" x2="{LEFT + WIDTH}" y2="{middle:.1f}" class="grid"/>'
    yield f'<text x="{LEFT + 4}" y="{middle - DIFFERENCE / 2:.1f}" fill="#666">the second less the first, times {SCALE}</text>'
    scale = HEIGHT / (high - low) * SCALE
    apart = [(x(step), middle - (second[step] - first[step]) * scale) for step in steps]
    yield line([(at, min(max(to, middle - DIFFERENCE / 2), middle + DIFFERENCE / 2)) for at, to in apart], "#d1495b", 1.2)
    yield "</svg>"


def main():
    runs = dict(argument.split("=", 1) for argument in sys.argv[1:])
    if len(runs) != 2:
        sys.exit(__doc__)
    runs = {name: losses(path) for name, path in runs.items()}
    out = Path(__file__).resolve().parents[1] / "docs" / "loss.svg"
    out.write_text("\n".join(draw(runs)) + "\n")
    first, second = runs.values()
    apart = [abs(second[step] - first[step]) for step in first if step in second]
    print(f"{out}: {len(apart)} steps, apart by {sum(apart) / len(apart):.4f} in the mean, {max(apart):.4f} at most")


if __name__ == "__main__":
    main()
