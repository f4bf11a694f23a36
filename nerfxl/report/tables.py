"""The tables of a report: settings, time, memory, and where it all comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nerfxl import history
from nerfxl.report.facts import Facts, Scores
from nerfxl.report.markup import Html, breakable, tag
from nerfxl.scene.grammar import Setting, settings

MOST_RANKS = 64  # whose memory is shown
UNKNOWN = "\u2013"
FILES = (
    ("scene.yaml", "the resolved scene: fitting it repeats the run"),
    ("plan.json", "the tiles"),
    ("cameras.json", "the views, and which are held out"),
    ("scene_transform.json", "from the capture's coordinates to the scene's"),
    ("metrics.jsonl", "the curves above"),
    ("sessions.jsonl", "each time that it was trained"),
    ("checkpoints", "what was learned"),
    ("renders", "pictures along paths"),
    ("logs", "what each process said"),
)


def asked(facts: Facts) -> Html | None:
    """What the run was asked: what differs from the defaults first, then all."""
    if facts.scene is None:
        return None
    every = list(settings(facts.scene.spec))
    own = [one for one in every if one.value != one.default]
    rest = [one for one in every if one.value == one.default]
    heads = ("key", "this run", "default", "what it says")
    usual = ("key", "default", "", "what it says")
    return tag(
        "section",
        tag("h2", "Settings"),
        tag("p", f"{len(own)} of {len(every)} keys differ from their defaults.", class_="lead"),
        table(heads, [_setting(one) for one in own], "settings"),
        tag(
            "details",
            tag("summary", f"The other {len(rest)} keys"),
            table(usual, [_setting(one, "") for one in rest], "settings"),
        ),
        id="settings",
    )


def about_scene(facts: Facts) -> Html:
    """The capture and its cut."""
    rows: list[tuple[str, str | Html | None]] = []
    told = facts.scores[0].told if facts.scores else {}
    if where := _capture(facts, told):
        rows.append(("capture", breakable(where)))
    if facts.scene is not None and facts.scene.shots:
        shots, plan = facts.scene.shots, facts.scene.plan
        sizes = sorted({(shot.camera.width, shot.camera.height) for shot in shots})
        held = sum(shot.test for shot in shots)
        edges = (edge / facts.scene.world.scale for edge in plan.root.size)
        rows += [
            ("photographs", f"{len(shots):,}, {held:,} of them held out"),
            ("of", " and ".join(f"{w} x {h}" for w, h in sizes[:3]) + " pixels"),
            ("root box", f"{' x '.join(f'{edge:,.3g}' for edge in edges)} source units"),
            ("tiles", f"{len(plan)}, {'open to infinity' if plan.open else 'closed'}"),
        ]
    if facts.capture is not None:
        rows.append(("points", f"{len(facts.capture.points):,}"))
        rows.append(("format", facts.capture.format))
    if told.get("appearance", "off") != "off":
        rows.append(("looks", told["appearance"]))
    return _facts(rows)


def spent(facts: Facts) -> Html:
    """How long it took, and what memory: of each process, and over several scorings."""
    rates = history.rates(history.settled(facts.history.lines))
    scores = facts.scores[0] if facts.scores else None
    told = scores.told if scores else {}
    rows = [
        ("training", duration(told.get("train_seconds"))),
        ("steps a second", _digits(1000 / rates["step_ms"], 1) if "step_ms" in rates else None),
        ("rays a second", _digits(rates.get("rays_per_second"), 0)),
        ("samples a ray", _digits(rates.get("samples_per_ray"), 1)),
        ("rendering", _seconds_a_picture(told)),
        ("parameters", _digits(told.get("parameters"), 0)),
    ]
    if "waiting" in rates:
        rows += [
            ("waiting for each other", f"{100 * rates['waiting']:.0f} %"),
            ("busiest process / mean", _digits(rates.get("imbalance"), 2)),
            ("received by all", f"{rates.get('bytes_per_ray', 0):,.0f} bytes a ray"),
        ]
    memory = told.get("peak_memory_per_rank") or []
    return tag(
        "section",
        tag("h2", "Time and memory"),
        tag("div", _facts(rows), _memory(memory), _messages(facts), class_="columns"),
        _scorings(facts.scores) if len(facts.scores) > 1 else None,
        tag(
            "p",
            "Rates are medians, and shares means, over the second half of the steps.",
            class_="small",
        ),
        id="time",
    )


def whence(facts: Facts, written: str) -> Html:
    """The capture, the machine, the code, and the files. written: when, and by which version."""
    status, told = facts.status, facts.scores[0].told if facts.scores else {}
    rows: list[tuple[str, str | Html | None]] = [
        ("run", breakable(str(facts.run.path.resolve()))),
        ("state", f"{status.state} at step {status.step:,} of {status.steps:,}"),
        ("because", status.reason or None),
        ("started", moment(status.started)),
        ("last word", moment(status.updated)),
        ("host", status.host),
        ("LPIPS", told.get("lpips_reason") if told and told.get("lpips") is None else None),
        ("this page", written),
    ]
    there = [(name, about) for name, about in FILES if (facts.run.path / name).exists()]
    files = (
        tag("li", tag("a", name, href=_link(facts.run.path / name)), f" \u2013 {about}")
        for name, about in there
    )
    return tag(
        "section",
        tag("h2", "Where it comes from"),
        _facts(rows),
        _sessions(facts.sessions),
        tag("h3", "Beside this page"),
        tag("ul", *files, class_="files"),
        id="provenance",
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], class_: str = "") -> Html:
    """A plain table; cells that are markup stay so."""
    head = tag("thead", tag("tr", *(tag("th", text, scope="col") for text in heads)))
    body = (
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", text) for text in row[1:]))
        for row in rows
    )
    inside = tag("table", head, tag("tbody", *body), class_=class_ or None)
    return tag("div", inside, class_="wide")


def duration(seconds: float | None) -> str | None:
    """A time in its two largest units.

    >>> duration(4.25), duration(388.8), duration(7300), duration(200_000)
    ('4.2 s', '6 min 29 s', '2 h 1 min', '2 d 7 h')
    """
    if seconds is None:
        return None
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole // 60} min {whole % 60} s"


def moment(text: str) -> str:
    """A time of status.json as it is read aloud.

    >>> moment("2026-01-31T12:00:00.123+01:00")
    '2026-01-31 12:00:00 +01:00'
    """
    return f"{text[:10]} {text[11:19]} {text[-6:]}" if len(text) >= 25 else text


def _setting(one: Setting, default: str | None = None) -> tuple[str, ...]:
    shown = _value(one.default) if default is None else default
    return (one.key, tag("code", _value(one.value)), shown, one.meaning)


def _value(value: Any) -> str:
    if value is None:
        return "must be given"
    if isinstance(value, list) and value and isinstance(value[0], dict):  # places of a capture
        return "; ".join(", ".join(filter(None, one.values())) for one in value)
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _facts(rows: Sequence[tuple[str, str | Html | None]]) -> Html:
    """Names and what is known of them; what is not is left out."""

    def parts() -> Iterator[Html]:
        for name, value in rows:
            if value:
                yield tag("dt", name)
                yield tag("dd", value)

    return tag("dl", *parts(), class_="facts")


def _memory(peaks: Sequence[float]) -> Html | None:
    """A bar a process."""
    if not peaks:
        return None
    most = max(peaks)
    rows = [
        tag(
            "li",
            tag("span", f"rank {rank}"),
            tag("i", style=f"width:{55 * peak / most:.1f}%"),
            tag("b", f"{peak / 2**30:.2f} GiB"),
        )
        for rank, peak in enumerate(peaks[:MOST_RANKS])
    ]
    more = f", the first {MOST_RANKS} of {len(peaks)}" if len(peaks) > MOST_RANKS else ""
    head = tag("h3", f"Most memory, by process{more}")
    return tag("div", head, tag("ul", *rows, class_="bars"))


def _messages(facts: Facts) -> Html | None:
    told = history.messages(history.settled(facts.history.lines))
    told = {kind: pair for kind, pair in told.items() if max(pair) > 0}
    if not told:
        return None
    rows = [(kind, f"{pair[0]:,.1f}", f"{pair[1]:.2f}") for kind, pair in told.items()]
    heads = ("message", "bytes a ray", "ms a step")
    return tag("div", tag("h3", "What processes tell each other"), table(heads, rows, "figures"))


def _scorings(scores: Sequence[Scores]) -> Html:
    rows = []
    for one in sorted(scores, key=lambda one: one.step):
        told = one.told
        rows.append(
            (
                f"{one.step:,}",
                *(_digits(told.get(name), digits) or UNKNOWN for name, digits in QUALITY),
                duration(told.get("train_seconds")) or UNKNOWN,
                _seconds_a_picture(told) or UNKNOWN,
                str(told.get("world_size", UNKNOWN)),
            )
        )
    heads = ("step", "PSNR, dB", "SSIM", "training", "rendering", "processes")
    return tag("div", tag("h3", "Scored at several steps"), table(heads, rows, "figures"))


QUALITY = (("psnr", 2), ("ssim", 3))


def _seconds_a_picture(told: dict[str, Any]) -> str | None:
    seconds = told.get("render_seconds")
    return f"{seconds:.2f} s a picture" if seconds else None


def _digits(value: Any, digits: int) -> str | None:
    return f"{value:,.{digits}f}" if isinstance(value, int | float) else None


def _capture(facts: Facts, told: dict[str, Any]) -> str:
    if facts.capture is not None:
        return str(facts.capture.root)
    return str(told.get("capture") or "")


def _sessions(sessions: Sequence[dict[str, Any]]) -> Html:
    head = tag("h3", "Trained by")
    if not sessions:
        return tag("div", head, tag("p", "The run does not say on which machine, by which code."))
    rows = [
        (
            moment(str(one.get("began", UNKNOWN))),
            f"{one['step']:,}",
            f"{one.get('processes', UNKNOWN)} on {one.get('device', UNKNOWN)}",
            str(one.get("machine", UNKNOWN)),
            str(one.get("code", UNKNOWN)),
            tag("code", str(one.get("command", UNKNOWN))),
        )
        for one in sessions
    ]
    heads = ("when", "from step", "processes", "machine", "code", "command")
    return tag("div", head, table(heads, rows, "sessions"))


def _link(path: Path) -> str:
    return f"{path.name}/" if path.is_dir() else path.name
