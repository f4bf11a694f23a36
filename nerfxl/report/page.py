"""The report of a run: one file that opens from disk, with its pictures, curves and figures."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from nerfxl import history, provenance
from nerfxl.report import curves, tables, thumbnails, views
from nerfxl.report.charts import SMOOTHING, draw
from nerfxl.report.facts import Facts, gather
from nerfxl.report.markup import Html, join, tag
from nerfxl.runs import RunFolder, write_atomic
from nerfxl.version import __version__

USUAL_SMOOTHING = "light"
HERE = Path(__file__).parent
# The browser itself then refuses whatever is not in the file.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
SECTIONS = {
    "views": "Views",
    "training": "Training",
    "scene": "Scene",
    "settings": "Settings",
    "time": "Time and memory",
    "provenance": "Provenance",
}


def write(run: RunFolder) -> Path:
    """Write a run's report.html; the file.

    Raises
    ------
    UserError: status.json cannot be read, or the file cannot be written.
    """
    write_atomic(run.report, page(gather(run)))
    return run.report


def page(facts: Facts) -> str:
    """The whole page."""
    name = facts.run.path.parent.name
    stamp = facts.run.path.name
    parts = [part for part in _sections(facts) if part is not None]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", f"{name} {stamp} \u2013 nerfxl"),
        tag("style", _own("report.css")),
    )
    body = tag(
        "body",
        _header(facts, name, stamp),
        _navigation(facts),
        tag("main", *parts),
        views.viewer(),
        tag("script", _own("report.js")),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _sections(facts: Facts) -> Iterator[Html | None]:
    written = f"{tables.moment(provenance.now())}, by nerfxl {__version__}"
    yield _notes(facts)
    yield views.section(facts)
    yield _training(facts)
    yield _scene(facts)
    yield tables.asked(facts)
    if _has(facts, "time"):
        yield tables.spent(facts)
    yield tables.whence(facts, written)


def _header(facts: Facts, name: str, stamp: str) -> Html:
    status = facts.status
    state = tag("span", status.state, class_=f"state {status.state}")
    step = f"step {status.step:,} of {status.steps:,}"
    figures = list(_key_figures(facts))
    return tag(
        "header",
        tag("p", tag("b", "nerfxl"), " report", class_="brand"),
        tag("h1", name, " ", tag("small", stamp)),
        tag("p", state, " ", step, class_="status"),
        tag("p", status.reason, class_="reason") if status.reason else None,
        _go_on(facts),
        tag("dl", *figures, class_="key-figures") if figures else None,
    )


def _navigation(facts: Facts) -> Html:
    links = (tag("a", text, href=f"#{at}") for at, text in SECTIONS.items() if _has(facts, at))
    return tag("nav", tag("div", *links), aria_label="Sections")


def _has(facts: Facts, section: str) -> bool:
    return {
        "views": bool(facts.scores and facts.scores[0].views),
        "scene": facts.scene is not None,
        "settings": facts.scene is not None,
        "time": bool(facts.scores or facts.history.lines),
    }.get(section, True)


def _go_on(facts: Facts) -> Html | None:
    """How to go on with a run that ended before its last step."""
    if facts.status.state not in ("failed", "interrupted"):
        return None
    if not any(facts.run.checkpoints.glob("step-*/manifest.json")):
        return tag("p", "It ended before its first checkpoint: there is nothing to go on from.")
    words = shlex.join(["nerfxl", "resume", str(facts.run.path)])
    return tag("p", "To go on from the last checkpoint: ", tag("code", words))


def _key_figures(facts: Facts) -> Iterator[Html]:
    """The few figures that a run is judged by."""
    told = facts.scores[0].told if facts.scores else {}
    rates = history.rates(history.settled(facts.history.lines))
    peaks = told.get("peak_memory_per_rank") or [
        line["peak_memory"] for line in facts.history.lines[-1:] if "peak_memory" in line
    ]
    figures = [
        ("PSNR, held out", told.get("psnr") and f"{told['psnr']:.2f}", "dB"),
        ("SSIM", told.get("ssim") and f"{told['ssim']:.3f}", ""),
        ("training", tables.duration(told.get("train_seconds")), ""),
        ("rays a second", rates and f"{rates.get('rays_per_second', 0):,.0f}", ""),
        ("memory a process", peaks and f"{max(peaks) / 2**30:.2f}", "GiB"),
        ("tiles", facts.scene and str(len(facts.scene.plan)), _processes(facts)),
    ]
    for name, value, unit in figures:
        if value:
            yield tag("div", tag("dt", name), tag("dd", str(value), " ", tag("small", unit)))


def _processes(facts: Facts) -> str:
    told = facts.scores[0].told if facts.scores else {}
    count = facts.sessions[-1].get("processes") if facts.sessions else told.get("world_size")
    return "" if not count else f"on {count} process{'es' if count != 1 else ''}"


def _notes(facts: Facts) -> Html | None:
    told = [
        *facts.notes,
        *(f"{text[:1].upper()}{text[1:]}." for text in provenance.busy(facts.sessions)),
    ]
    if not told:
        return None
    return tag("ul", *(tag("li", note) for note in told), class_="notes", aria_label="Notes")


def _training(facts: Facts) -> Html:
    lines, last = facts.history.lines, curves.last_step(facts)
    marks = [one["step"] for one in facts.sessions if 0 < one["step"] <= last]
    drawn = [draw(chart, last, marks) for chart in curves.charts(facts)]
    if not drawn:
        nothing = tag("p", "metrics.jsonl tells of no step yet.", class_="lead")
        return tag("section", tag("h2", "Training"), nothing, id="training")
    choices = (tag("label", _choice(name), name) for name in SMOOTHING)
    smoothing = tag("fieldset", tag("legend", "smoothing"), *choices)
    lead = (
        f"{len(lines):,} lines of metrics.jsonl over {last:,} steps. Point at a curve, or select "
        "it and use the arrow keys, to read all of them at that step."
    )
    return tag(
        "section",
        tag("div", tag("h2", "Training"), smoothing, class_="head"),
        tag("p", lead, class_="lead"),
        tag("div", *drawn, class_="charts"),
        id="training",
        data_smoothing=USUAL_SMOOTHING,
    )


def _choice(name: str) -> Html:
    chosen = name == USUAL_SMOOTHING
    return tag("input", type="radio", name="smoothing", value=name, checked=chosen)


def _scene(facts: Facts) -> Html | None:
    picture = thumbnails.plan(facts)
    if picture is None or facts.scene is None:
        return None
    points = "" if facts.capture else "; the capture is not there, and its points are not shown"
    image = tag(
        "img",
        src=picture.uri,
        width=picture.width,
        height=picture.height,
        alt="The tiles, cameras and points from above",
    )
    return tag(
        "section",
        tag("h2", "The scene, and how it is cut"),
        tag("p", f"Tiles are numbered, the root box is grey{points}.", class_="lead"),
        tag("div", tag("figure", image, class_="plan"), tables.about_scene(facts), class_="beside"),
        id="scene",
    )


def _own(name: str) -> Html:
    """A file of this package as it is."""
    return join([Html((HERE / name).read_text(encoding="utf-8"))])
