"""What a command printed, as a picture for the README: `... | python -m tools.screen "make demo" docs/demo.svg`.

The text is that of a real run, read from standard input; the verdicts stand out. An SVG with the reader's own
monospaced font: it asks for no file, and its words can be searched and read aloud.
"""

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLOURS = {"better": "green", "worse": "red", "equivalent": "cyan", "undecided": "yellow", "not learnt": "magenta"}
WIDEST = 120  # columns of a picture that is still read beside text
FONT = re.compile(r"@font-face \{.*?\n\s*\}\n", re.DOTALL)  # rich's own template fetches one from the web


def picture(text: str, title: str) -> str:
    """The SVG of what was printed, under a title.

    Raises:
        SystemExit: nothing was printed, or a line of it is too long to be read in a picture.
    """
    lines = text.rstrip().expandtabs().splitlines()
    if not lines:
        raise SystemExit("nothing was printed: what is drawn is a command's output, on standard input")
    width = max(map(len, lines))
    if width > WIDEST:
        raise SystemExit(f"a line has {width} columns, a picture has up to {WIDEST}: COLUMNS=96 before the command")
    shown = Text("\n".join(lines))
    for verdict, colour in COLOURS.items():
        shown.highlight_regex(rf"\b{verdict}\b", f"bold {colour}")
    console = Console(record=True, width=width + 1, file=io.StringIO(), highlight=False)
    console.print(shown)
    drawn = FONT.sub("", console.export_svg(title=title, unique_id="labelreg"))
    return drawn.replace("Fira Code", "ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono")


def main() -> None:
    title, path = sys.argv[1:]
    Path(path).write_text(picture(sys.stdin.read(), title), encoding="utf-8")


if __name__ == "__main__":
    main()
