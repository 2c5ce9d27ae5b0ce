"""The pictures of verdicts of a report page as one SVG: `python -m tools.figures report.html docs/answer-a.svg`."""

import re
import sys
from pathlib import Path

WIDTH, TITLE, GAP = 680, 22, 14  # pixels: of each picture, of the line above it, below it


def stacked(page: str) -> str:
    """Every `intervals` picture of the page, its title above it, in the page's colours (light and dark)."""
    colours = "".join(re.findall(r":root \{[^}]*\}|@media screen[^{]*\{\s*:root \{[^}]*\}\s*\}", page))
    parts, top = [], 0.0
    for figure in re.findall(r'<svg class="chart[^>]*aria-labelledby="intervals-.*?</svg>', page, flags=re.DOTALL):
        width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', figure)[0])
        title = re.findall(r"<title[^>]*>intervals, (.*?)</title>", figure)[0]
        parts.append(f'<text x="4" y="{top + 15:g}" class="title">{title}</text>')
        placed = f'<svg x="0" y="{top + TITLE:g}" width="{width:g}" height="{height:g}" class="chart"'
        parts.append(re.sub(r"^<svg [^>]*?(?= viewBox)", placed, figure))
        top += TITLE + height + GAP
    style = f"{colours} .chart {{fill: var(--ink)}} .title {{font: 600 13px var(--sans); fill: var(--ink)}}"
    box = f'viewBox="0 0 {WIDTH} {top:g}" width="{WIDTH}" height="{top:g}"'
    ground = '<rect width="100%" height="100%" style="fill: var(--paper)"/>'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}><style>{style}</style>{ground}\n{body}\n</svg>\n'


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(stacked(source.read_text(encoding="utf-8")), encoding="utf-8")
