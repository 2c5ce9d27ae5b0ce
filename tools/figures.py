"""The pictures of a report page that answer its question, as one SVG: those of more data where there are any, else
those of the verdicts: `python -m tools.figures report.html docs/answer-a.svg`."""

import re
import sys
from pathlib import Path

WIDTH, TITLE, GAP = 680, 22, 14  # pixels: of each picture, of the line above it, below it


def stacked(page: str) -> str:
    """The pictures, each with its title above it, two narrow ones side by side, in the page's colours (light, dark)."""
    colours = "".join(re.findall(r":root \{[^}]*\}|@media screen[^{]*\{\s*:root \{[^}]*\}\s*\}", page))
    kind = "trend" if 'aria-labelledby="trend-' in page else "intervals"
    parts, left, top, below = [], 0.0, 0.0, 0.0
    for figure in re.findall(rf'<svg class="chart[^>]*aria-labelledby="{kind}-.*?</svg>', page, flags=re.DOTALL):
        width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', figure)[0])
        title = re.findall(rf"<title[^>]*>{kind}, (.*?)</title>", figure)[0]
        parts.append(f'<text x="{left + 4:g}" y="{top + 15:g}" class="title">{title}</text>')
        placed = f'<svg x="{left:g}" y="{top + TITLE:g}" width="{width:g}" height="{height:g}" class="chart"'
        parts.append(re.sub(r"^<svg [^>]*?(?= viewBox)", placed, figure))
        below = top + TITLE + height + GAP
        left, top = (width, top) if left + 2 * width <= WIDTH else (0.0, below)
    style = f"{colours} .chart {{fill: var(--ink)}} .title {{font: 600 13px var(--sans); fill: var(--ink)}}"
    box = f'viewBox="0 0 {WIDTH} {below:g}" width="{WIDTH}" height="{below:g}"'
    ground = '<rect width="100%" height="100%" style="fill: var(--paper)"/>'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}><style>{style}</style>{ground}\n{body}\n</svg>\n'


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(stacked(source.read_text(encoding="utf-8")), encoding="utf-8")
