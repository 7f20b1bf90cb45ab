"The notebooks as a reader meets them: small, no widgets, errors or progress bars, and links that lead somewhere."
import json
import re
import string
from functools import cache
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
chapters = sorted((root / "nbs").glob("*.ipynb"))
named = pytest.mark.parametrize("chapter", chapters, ids=lambda chapter: chapter.stem)

MOST = 5_000_000                                            # bytes of all notebooks together
PLOTLY = "application/vnd.plotly.v1+json"
TWO_SCREENS = 90                                            # lines
BAR = re.compile(r"\d+%\|.*\|\s*\d+/\d+|\d+(\.\d+)?\s?(it|s|step|epoch)/(s|it)\b")       # of tqdm
MACHINE = re.compile(r"(?<![\w.])/(home|root|Users|tmp|work|mnt|usr|opt|var)/|[A-Z]:\\\\?Users")
LINK = re.compile(r"\]\(([^)\s]+)\)")


@cache
def read(chapter): return json.loads(chapter.read_text())


def source(cell): return "".join(cell["source"])


def prose(chapter): return "\n".join(source(c) for c in read(chapter)["cells"] if c["cell_type"] == "markdown")


def outputs(chapter):
    "(id of its cell, output) of all that is stored"
    return [(cell["id"], output) for cell in read(chapter)["cells"] for output in cell.get("outputs", [])]


def said(output):
    "All the words of an output, whatever its kind"
    data = {kind: text for kind, text in output.get("data", {}).items() if not kind.startswith("image/")}
    words = [output.get("text", []), *data.values()]
    return "\n".join(text if isinstance(text, str) else json.dumps(text) if isinstance(text, dict) else "".join(text)
                     for text in words)


def anchors(chapter):
    "What a link to a heading may be called, as JupyterLab and GitHub call it"
    code = re.sub(r"```.*?```", "", prose(chapter), flags=re.S)
    headings = re.findall(r"^#+ (.+)$", code, flags=re.M)
    shown = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    kept = string.ascii_letters + string.digits + "- _"
    on_github = {"".join(c for c in heading if c in kept).lower().replace(" ", "-") for heading in shown}
    return on_github | {heading.replace(" ", "-") for heading in shown}


def test_together_they_are_small():
    sizes = {chapter.stem: chapter.stat().st_size for chapter in chapters}
    largest = sorted(sizes, key=sizes.get)[-3:]
    assert sum(sizes.values()) < MOST, f"{sum(sizes.values()):,} bytes, most of them in {largest}"


@named
def test_no_widget_metadata(chapter):
    notebook = read(chapter)
    assert "widgets" not in notebook["metadata"]
    kinds = [(where, kind) for where, output in outputs(chapter) for kind in output.get("data", {})]
    assert not [where for where, kind in kinds if "widget" in kind]


@named
def test_figures_to_touch_are_small(chapter):
    "A figure of plotly's has at most 300 KB, and a picture where it cannot be drawn"
    for where, output in outputs(chapter):
        data = output.get("data", {})
        if PLOTLY not in data: continue
        assert len(json.dumps(data[PLOTLY])) <= 300_000, f"cell {where} stores a large figure"
        assert "image/png" in data, f"cell {where} has no picture beside its figure: run .ci/tidy"


@named
def test_no_errors_bars_or_machines(chapter):
    for where, output in outputs(chapter):
        words = said(output)
        assert output["output_type"] != "error", f"cell {where} failed"
        assert "Traceback (most recent call last)" not in words, f"cell {where} shows a failure"
        assert output.get("name") != "stderr", f"cell {where} keeps what was said to stderr"
        assert not BAR.search(words), f"cell {where} keeps a progress bar: {BAR.search(words)[0]}"
        assert not MACHINE.search(words), f"cell {where} names a place of a machine: {MACHINE.search(words)[0]}"


def is_folded(cell):
    return cell["metadata"].get("jupyter", {}).get("source_hidden") or re.match(r"#\| (hide|echo: false)", source(cell))


def rows(cell):
    "About how many lines a cell takes on a screen"
    if cell["cell_type"] == "markdown": return sum(1 + len(line) // 110 for line in source(cell).splitlines())
    printed = sum(said(output).count("\n") for output in cell["outputs"])
    return 1 + printed + (0 if is_folded(cell) else len(source(cell).splitlines()))


def has_picture(cell):
    return "![" in source(cell) or any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))


@named
def test_the_first_picture_is_near(chapter):
    cells = read(chapter)["cells"]
    first = next((k for k, cell in enumerate(cells) if has_picture(cell)), 0)           # an appendix may have none
    before = sum(map(rows, cells[:first]))
    assert before <= TWO_SCREENS, f"{before} lines before the first picture"


def shown(*chapters):
    "Names of the picture files that prose shows"
    return set(re.findall(r"[(\"]pictures/([^)\"]+)[)\"]", "".join(map(prose, chapters))))


def test_each_picture_file_is_shown():
    assert {file.name for file in (root / "nbs/pictures").iterdir()} == shown(*chapters)


@named
def test_the_gallery_is_complete(chapter):
    if chapter.stem == "index": return                                        # whose picture chapter 14 has too
    pictures = [where for where, output in outputs(chapter) if "image/png" in output.get("data", {})]
    nth = [pictures[:k].count(where) + 1 for k, where in enumerate(pictures)]
    names = {f"{chapter.stem}-{where}" + (f"-{n}" if n > 1 else "") + ".png"
             for where, n in zip(pictures, nth, strict=True)}
    assert names <= shown(root / "nbs/gallery.ipynb"), "has a picture that the gallery does not show"


@named
def test_links_are_whole(chapter):
    for link in LINK.findall(re.sub(r"```.*?```|`[^`]*`", "", prose(chapter), flags=re.S)):
        if re.match(r"https?:|mailto:", link): continue
        file, _, heading = link.partition("#")
        there = chapter.parent / file if file else chapter
        assert there.is_file(), f"{link} leads nowhere"
        if heading: assert heading in anchors(there), f"{file or chapter.name} has no heading {heading}"


@named
def test_the_way_through_the_book(chapter):
    "Each chapter's last links lead to all chapters, and the index leads to each chapter"
    if chapter.stem == "index": return
    assert f"]({chapter.name}" in prose(root / "nbs/index.ipynb"), "not in the index"
    assert "](index.ipynb)" in source(read(chapter)["cells"][-1])
