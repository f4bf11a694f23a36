"""The held-out views of a report: a dot each, and a row of pictures, which may be sorted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from nerfxl.pictures import FULL_ERROR
from nerfxl.report.axes import LEFT, RIGHT, levels, value_axis
from nerfxl.report.charts import dot
from nerfxl.report.facts import Facts, Scores
from nerfxl.report.markup import Html, breakable, join, tag
from nerfxl.report.thumbnails import LAYERS, LONGEST, Seen, seen

STRIP = (1120, 150)  # width and height of the dots' chart, its own units
FOOT = 12
MOST_DOTS = 400
LEGENDS = {
    "truth": "the photograph",
    "rendering": "what was learned, from the same camera",
    "error": f"black is none, brightest {FULL_ERROR:.0%} of the range of colours and more",
    "depth": "near is bright, far is dark; each picture has its own range",
}


def section(facts: Facts) -> Html | None:
    """The newest scores with their pictures; None where nothing was scored."""
    if not facts.scores or not facts.scores[0].views:
        return None
    scores = facts.scores[0]
    shown, count = seen(facts, scores), len(scores.views)
    layers = [layer for layer in LAYERS if any(layer in one.layers for one in shown)]
    which = f"All {count}" if len(shown) == count else f"{len(shown)} of {count}"
    spread = "" if len(shown) == count else ", spread evenly from the worst to the best"
    lead = (
        f"{which} held-out views after {scores.step:,} steps{spread}. Select a picture to enlarge "
        f"and compare it; pictures are stored here at {LONGEST} pixels at most, in full in "
    )
    folder = scores.folder.relative_to(facts.run.path).as_posix()
    return tag(
        "section",
        tag("h2", "Held-out views"),
        tag("p", lead, tag("a", f"{folder}/", href=f"{folder}/"), ".", class_="lead"),
        _strip(scores),
        _table(shown, layers),
        _legend(layers),
        _every(scores) if len(shown) < count else None,
        id="views",
    )


def viewer() -> Html:
    """The box in which pictures are enlarged; the page's script fills it."""
    choices = (
        tag("button", layer, type="button", data_layer=layer)
        for layer in ("compare", "truth", "rendering", "error", "depth")
    )
    wipe = tag("input", type="range", min=0, max=100, value=50, aria_label="truth to rendering")
    return tag(
        "dialog",
        tag(
            "header",
            tag("h3"),
            tag("div", *choices, class_="choices", role="group", aria_label="layer"),
            tag(
                "div",
                _button("previous", "\u2190"),
                _button("next", "\u2192"),
                _button("close", "\u00d7"),
            ),
        ),
        tag("div", class_="stage"),
        tag("footer", wipe, tag("p", class_="says")),
        id="viewer",
        aria_label="A held-out view, enlarged",
    )


def _button(name: str, mark: str) -> Html:
    return tag("button", mark, type="button", class_=name, aria_label=name, title=name)


def _strip(scores: Scores) -> Html:
    """PSNR of every view as a dot, in the order of the capture, and their mean as a line."""
    views = scores.views
    group = -(-len(views) // MOST_DOTS)
    views, (width, height) = views[::group], STRIP
    values = np.array([one["psnr"] for one in views])
    up = value_axis(values, height - FOOT)
    mean = float(np.mean([one["psnr"] for one in scores.views]))
    level = float(up.place(np.array([mean]))[0])
    room = (width - LEFT - RIGHT) / len(views)
    dots = []
    for index, (one, y) in enumerate(zip(views, up.place(values).tolist(), strict=True)):
        x = LEFT + (index + 0.5) * room
        about = tag("title", f"{one['name']}: {one['psnr']:.2f} dB")
        stem = tag("line", class_="stem", x1=x, x2=x, y1=level, y2=y)
        dots.append(tag("g", about, stem, dot(x, y), data_view=one["name"]))
    axes = tag("g", *levels(up, width - RIGHT), class_="axes", aria_hidden="true")
    line = tag("line", class_="mean", x1=LEFT, x2=width - RIGHT, y1=level, y2=level)
    said = f"PSNR of each view: {values.min():.2f} to {values.max():.2f} dB, mean {mean:.2f} dB"
    every = "" if group == 1 else f", one in {group} of them"
    return tag(
        "figure",
        tag(
            "figcaption",
            tag("b", "PSNR of each view"),
            " ",
            tag("span", _order(every), class_="unit"),
        ),
        tag(
            "svg",
            join((axes, line, tag("g", *dots, class_="series s1"))),
            viewBox=f"0 0 {width} {height}",
            role="img",
            aria_label=said,
        ),
        class_="chart strip",
    )


def _order(every: str) -> str:
    return f"dB, in the order of the capture{every}; the line is the mean"


def _table(shown: Sequence[Seen], layers: Sequence[str]) -> Html:
    heads = [_sorting("view", "text"), _sorting("PSNR, dB", "number"), _sorting("SSIM", "number")]
    heads += [tag("th", layer, scope="col", class_="layer") for layer in layers]
    rows = (_row(one, layers) for one in shown)
    return tag(
        "table",
        tag("thead", tag("tr", *heads)),
        tag("tbody", *rows),
        class_="sortable views",
        data_layers=len(layers),
    )


def _row(one: Seen, layers: Sequence[str]) -> Html:
    missing = tag("small", one.missing, class_="missing") if one.missing else None
    cells = [tag("th", breakable(one.name), missing, scope="row", data_value=one.name)]
    cells += _scores(one.psnr, one.ssim)
    for layer in layers:
        small = one.layers.get(layer)
        if small is None:
            cells.append(tag("td", "\u2013", class_="layer", title=one.missing))
            continue
        picture = tag(
            "img",
            src=small.uri,
            width=small.width,
            height=small.height,
            alt=f"{layer} of {one.name}",
        )
        button = tag("button", picture, type="button", class_="thumb", data_layer=layer)
        cells.append(tag("td", button, class_="layer"))
    return tag("tr", *cells, data_view=one.name)


def _scores(psnr: float, ssim: float | None) -> list[Html]:
    similar = "\u2013" if ssim is None else f"{ssim:.3f}"
    return [
        tag("td", f"{psnr:.2f}", class_="number", data_value=f"{psnr:.6g}"),
        tag("td", similar, class_="number", data_value="" if ssim is None else f"{ssim:.6g}"),
    ]


def _sorting(text: str, kind: str) -> Html:
    """The head of a column that may be sorted by."""
    button = tag("button", text, type="button", class_="sort", data_kind=kind)
    return tag("th", button, scope="col", class_=kind)


def _every(scores: Scores) -> Html:
    """A table of all scores, folded up."""
    heads = [_sorting("view", "text"), _sorting("PSNR, dB", "number"), _sorting("SSIM", "number")]
    return tag(
        "details",
        tag("summary", f"Scores of all {len(scores.views)} views"),
        tag(
            "table",
            tag("thead", tag("tr", *heads)),
            tag("tbody", *(_plain_row(one) for one in scores.views)),
            class_="sortable",
        ),
    )


def _plain_row(one: dict[str, Any]) -> Html:
    name = tag("th", breakable(one["name"]), scope="row", data_value=one["name"])
    return tag("tr", name, *_scores(one["psnr"], one["ssim"]))


def _legend(layers: Sequence[str]) -> Html:
    def parts() -> Iterator[Html]:
        for layer in layers:
            yield tag("dt", layer)
            yield tag("dd", LEGENDS[layer])

    return tag("dl", *parts(), class_="legends")
