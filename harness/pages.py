"""Parts of a self-contained page: no script, no outside resource, readable by light, by dark and by ear."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from zoo.whole_files import write_text


def escape(text: object) -> str:
    """Text as HTML."""
    return html.escape(str(text))


def section(title: str, *parts: str) -> str:
    """A part of the page that its table of contents names."""
    return f'<section id="{_anchor(title)}"><h2>{escape(title)}</h2>\n' + "\n".join(parts) + "\n</section>"


def heading(text: str) -> str:
    """A title inside a section."""
    return f"<h3>{escape(text)}</h3>"


def paragraph(text: str) -> str:
    """Text, escaped."""
    return f"<p>{escape(text)}</p>"


def bullets(texts: Sequence[str]) -> str:
    """A list, or nothing where it is empty."""
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>" if texts else ""


def notice(title: str, texts: Sequence[str]) -> str:
    """A box that stands out, or nothing where there is nothing to say."""
    return f'<div class="notice" role="note"><strong>{escape(title)}</strong>{bullets(texts)}</div>' if texts else ""


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True) -> str:
    """A table; the first cell of a row is its title.

    Args:
        caption: what a listener hears first.
        numbers: whether the other cells are right-aligned.
    """
    kind = ' class="numbers"' if numbers else ""
    titles = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = [f"<table{kind}><caption>{escape(caption)}</caption>", f"<thead><tr>{titles}</tr></thead><tbody>"]
    for first, *others in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    return '<div class="wide">' + "\n".join(lines) + "</tbody></table></div>"


def facts(caption: str, content: Mapping[str, object]) -> str:
    """A table of names and values."""
    return table(caption, ("", ""), [(name, str(value)) for name, value in content.items()], numbers=False)


def picture(content: bytes, description: str, caption: str = "") -> str:
    """A PNG inside the page; pixels are kept sharp where it is enlarged."""
    encoded = base64.b64encode(content).decode()
    image = f'<img alt="{escape(description)}" src="data:image/png;base64,{encoded}">'
    return f"<figure>{image}<figcaption>{escape(caption or description)}</figcaption></figure>"


def drawing(svg: str, description: str, caption: str = "") -> str:
    """A drawing inside the page, whose lines and letters take the page's colour."""
    shown = f'<div class="drawing" role="img" aria-label="{escape(description)}">{svg}</div>'
    return f"<figure>{shown}<figcaption>{escape(caption or description)}</figcaption></figure>"


def row(*figures: str) -> str:
    """Figures side by side where there is room."""
    return '<div class="row">' + "\n".join(figures) + "</div>"


def fold(summary: str, text: str) -> str:
    """Text as it is, folded away."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def write_page(path: Path, title: str, lead: str, sections: Mapping[str, Sequence[str]]) -> None:
    """Writes a page atomically.

    Args:
        title: heading and name of the page.
        lead: a line below it.
        sections: title -> parts (HTML); empty ones are left out.
    """
    shown = {name: [part for part in parts if part] for name, parts in sections.items()}
    shown = {name: parts for name, parts in shown.items() if parts}
    links = " ".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name in shown)
    body = "\n".join(section(name, *parts) for name, parts in shown.items())
    page = PAGE.format(title=escape(title), lead=escape(lead), links=links, body=body, style=STYLE)
    write_text(path, page)


def _anchor(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --line: #d8dde4; --ground: #ffffff;
  --card: #f5f7fa; --mark: #b3541e; --mark-ground: #fdf3ea; --link: #1f5fa8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa6b5; --line: #333c48; --ground: #14181e;
  --card: #1c222b; --mark: #f0a868; --mark-ground: #2c231a; --link: #7fb2ee; } }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--ground); max-width: 70rem;
  margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .8rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem; }
.lead, figcaption, caption { color: var(--soft); } .lead { margin: 0 0 1rem; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; } a { color: var(--link); }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: .5rem 0 1rem; font-size: .94rem;
  min-width: 24rem; }
caption { text-align: left; padding-bottom: .35rem; }
th, td { padding: .34rem .8rem .34rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; } tbody th { font-weight: 400; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.numbers td, .numbers thead th + th { text-align: right; white-space: nowrap; padding: .34rem 0 .34rem 1.6rem; }
.notice { background: var(--mark-ground); border-left: 4px solid var(--mark); border-radius: 4px; padding: .7rem 1rem;
  margin: 1.2rem 0; } .notice strong { color: var(--mark); } .notice ul { margin: .3rem 0 0; }
ul { padding-left: 1.2rem; } li { margin: .2rem 0; overflow-wrap: anywhere; }
figure { margin: .6rem 0 1.2rem; } figcaption { font-size: .88rem; margin-top: .3rem; max-width: 60ch; }
img { max-width: 100%; height: auto; border-radius: 4px; image-rendering: pixelated; }
.drawing svg { max-width: 100%; height: auto; } .drawing text { fill: currentColor; }
.row { display: flex; flex-wrap: wrap; gap: 1.2rem; } .row figure { flex: 1 1 20rem; min-width: 0; }
details { margin: .5rem 0; } summary { cursor: pointer; color: var(--link); }
pre { overflow-x: auto; background: var(--card); border-radius: 4px; padding: .8rem; font-size: .82rem;
  line-height: 1.4; }
@media print { details { display: none; } nav { display: none; } }
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style></head>
<body>
<header><h1>{title}</h1><p class="lead">{lead}</p><nav aria-label="contents">{links}</nav></header>
<main>
{body}
</main>
</body></html>
"""
