"""The page of a study for people: claims, tables, plots, and how all of it was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nerfxl.study.book import Book
from nerfxl.study.claims import Finding
from nerfxl.study.figures import Group, Row, Spread
from nerfxl.study.grid import Kind, as_options


class Name(NamedTuple):
    """How a figure is called, and written. factor: from the unit that it is kept in."""

    heading: str
    digits: int
    factor: float = 1.0


NAMES = {
    "psnr": Name("PSNR, dB", 2),
    "ssim": Name("SSIM", 3),
    "rays_per_second": Name("rays/s in training", 0),
    "render_seconds": Name("s a picture", 2),
    "memory": Name("GiB a process", 2),
    "outside": Name("samples outside, %", 0, 100),
    "step_ms": Name("ms a step", 1),
    "exchange_ms": Name("of it exchanging, ms", 1),
    "waiting": Name("waiting, %", 0, 100),
    "bytes_per_ray": Name("bytes a ray", 0),
    "imbalance": Name("busiest / mean", 2),
    "band_psnr": Name("PSNR near faces, dB", 2),
    "rest_psnr": Name("elsewhere, dB", 2),
    "before_rotation": Name("rotation before, deg", 3),
    "after_rotation": Name("after", 3),
    "before_rotation_aligned": Name("aligned, before", 3),
    "after_rotation_aligned": Name("after", 3),
    "before_translation": Name("translation before, %", 3, 100),
    "after_translation": Name("after", 3, 100),
    "before_translation_aligned": Name("aligned, before", 3, 100),
    "after_translation_aligned": Name("after", 3, 100),
    "apart_rotation": Name("tiles apart, deg", 3),
    "apart_translation": Name("tiles apart, %", 3, 100),
}
QUALITY = ("psnr", "ssim")
COLUMNS: dict[Kind, tuple[tuple[str, ...], ...]] = {
    "scaling": ((*QUALITY, "rays_per_second", "render_seconds", "memory", "outside"),),
    "exchange": (
        ("step_ms", "exchange_ms", "waiting", "bytes_per_ray", "rays_per_second", "imbalance"),
    ),
    "overlap": (("band_psnr", "rest_psnr", *QUALITY),),
    "ddp": ((*QUALITY, "rays_per_second", "render_seconds", "memory"),),
    "cameras": (
        (*QUALITY, "apart_rotation", "apart_translation"),
        tuple(f"{when}_rotation{how}" for how in ("", "_aligned") for when in ("before", "after")),
        tuple(
            f"{when}_translation{how}" for how in ("", "_aligned") for when in ("before", "after")
        ),
    ),
    "appearance": ((*QUALITY, "rays_per_second"),),
}
ABOUT: dict[Kind, tuple[str, str]] = {
    "scaling": (
        "Quality, speed and rendering against the number of tiles",
        "Fig. 8 and 9 of NeRF-XL",
    ),
    "exchange": ("What processes tell each other, and what that costs", "Fig. 12 of NeRF-XL"),
    "overlap": ("Errors where tiles meet", "Fig. 5 of NeRF-XL"),
    "ddp": ("Tiles shared out, against a whole model a process", "Fig. 11 of NeRF-XL"),
    "cameras": ("Disturbed cameras, corrected while the scene is learned", "Fig. 4 of NeRF-XL"),
    "appearance": (
        "What differs from image to image though the scene does not",
        "NeRF in the Wild, sec. 4.1",
    ),
}
HOW = {
    "all": (
        "PSNR and SSIM are means over the held-out views. Speeds are medians over the second half "
        "of the steps, other shares and bytes means over it. With several seeds: the mean (least "
        "to greatest). A claim is undecided where seeds overlap, or, with one seed, where figures "
        "differ by less than 0.3 dB or 5 %. On a CPU, a process has as many cores in all fits.",
    ),
    "scaling": (
        "With one tile there is nothing to divide: joint and independent training are one fit.",
        "Samples outside: of an independent NeRF's samples, those that lie outside its own tile.",
    ),
    "exchange": (
        "All fits have the same tiles; one process alone exchanges nothing. Exchanging is the time "
        "that a process waits for messages in a step, for a slower process too. Bytes are those "
        "that all processes together receive. Quality is not the subject: one view is held out.",
    ),
    "overlap": (
        "Near faces are the pixels whose surface lies within 2 % of the root box's longest edge of "
        "a face between two tiles; elsewhere are all other pixels that see a surface. Where "
        "surfaces are, the joint fit of the same seed says, so that the pixels are the same for "
        "all; one tile has no faces, and tells how hard those pixels are to see. Both PSNRs are of "
        "the squared error over all held-out views together. "
        "independent-2d has no such faces: it is there for comparison.",
    ),
    "ddp": ("Joint has a tile a process; ddp is one tile, held whole by every process.",),
    "cameras": (
        "Errors are means over the disturbed cameras; translations are shares of the root box's "
        "longest edge. Aligned: after the similarity that brings the cameras nearest to the truth. "
        "For independent tiles errors are means over each tile and camera that it corrected, each "
        "tile aligned by itself; tiles apart is the mean difference between two tiles' "
        "corrections of one camera. Held-out views keep their true poses.",
    ),
    "appearance": (
        "All fits differ in what they learn of each image alone: an exposure (a gain and an "
        "offset of each channel of the whole pixel), an embedding (a vector that the colour "
        "network sees), both, or nothing.",
    ),
}


def markdown(
    book: Book,
    rows: Sequence[Row],
    groups: Sequence[Group],
    claims: Sequence[Finding],
    pictures: Sequence[str],
) -> str:
    """The report, for people."""
    title, where = ABOUT[book.kind]
    name = book.path.name.removesuffix(f"-{book.kind}")
    parts = [f"# {name}: {book.kind}\n", f"{title} ({where}). {_progress(rows)}\n"]
    parts += [_origin(book, rows), "## Claims\n", *_claims(claims)]
    tables = [_table(groups, columns) for columns in COLUMNS[book.kind]]
    parts += ["## Figures\n", *filter(None, tables)] if any(tables) else []
    if book.kind == "exchange":
        parts += _messages(groups)
    parts += [f"![{picture}]({picture})\n" for picture in pictures]
    parts += ["## How it was measured\n", *(f"{text}\n" for text in HOW["all"] + HOW[book.kind])]
    return "\n".join([*parts, "## Fits\n", _fits(rows)])


def written(name: str, value: Spread | None) -> str:
    """A figure in words.

    >>> written("psnr", Spread(24.1234, 24.0, 24.25, 2)), written("psnr", None)
    ('24.12 (24.00 to 24.25)', '-')
    """
    if value is None:
        return "-"
    _, digits, factor = NAMES[name]
    mean, least, greatest = (
        f"{factor * number:,.{digits}f}" for number in (value.mean, value.least, value.greatest)
    )
    return mean if value.seeds == 1 else f"{mean} ({least} to {greatest})"


def _progress(rows: Sequence[Row]) -> str:
    done = sum(row.state == "complete" for row in rows)
    seeds = ", ".join(map(str, sorted({row.cell.seed for row in rows})))
    steps = sorted({row.run.status().steps for row in rows if row.run and row.figures})
    of_steps = f" of {' and '.join(f'{count:,}' for count in steps)} steps" if steps else ""
    number = "seeds" if "," in seeds else "seed"
    return f"{done} of {len(rows)} fits{of_steps} are complete, {number} {seeds}."


def _origin(book: Book, rows: Sequence[Row]) -> str:
    """Where the figures come from."""
    used = sorted({number for row in rows for number in row.entry.sessions})
    sessions = [book.sessions[number] for number in used]
    captures = sorted({_capture(row) for row in rows if row.facts})
    looks = dict.fromkeys(row.facts["appearance"] for row in rows if row.facts)
    lines = [("scene", f"`{book.scene}`"), *(("capture", text) for text in captures)]
    lines += [("looks", text) for text in looks if text != "off"]
    for session in sessions:
        lines.append(("command", f"`{session.command}`, {session.began}"))
    shared = dict.fromkeys(as_options(row.entry.shared) for row in rows)
    lines += [("all with", f"`{text}`") for text in shared if text]
    lines += [("machine", text) for text in dict.fromkeys(one.machine for one in sessions)]
    lines += [("code", text) for text in dict.fromkeys(one.code for one in sessions)]
    lines += [("note", session.busy) for session in sessions if session.busy]
    if len({one.machine for one in sessions}) > 1:
        lines.append(("note", "fits of several machines: their speeds cannot be compared"))
    table = [f"| {what} | {_cell(text)} |" for what, text in lines]
    return "\n".join(["| | |", "|---|---|", *table]) + "\n"


def _capture(row: Row) -> str:
    note = row.facts["capture_note"]
    return f"{row.facts['capture']} ({note})" if note else f"{row.facts['capture']}"


def _claims(claims: Sequence[Finding]) -> Iterator[str]:
    for claim in claims:
        yield f"* **{claim.verdict.capitalize()}.** {claim.claim} ({claim.where}): {claim.found}."
    yield ""


def _table(groups: Sequence[Group], columns: Sequence[str]) -> str:
    """What is known of the columns; nothing where that is nothing."""
    shown = [name for name in columns if any(one[name] for one in groups)]
    if not shown:
        return ""
    refined = any(one.refine is not None for one in groups)
    heads = ["", "tiles", "processes", *(["cameras"] if refined else [])]
    lines = [[*heads, *(NAMES[name].heading for name in shown)]]
    lines.append(["---"] + ["---:"] * (len(lines[0]) - 1))
    for one in groups:
        kept = ["corrected" if one.refine else "as given"] if refined else []
        about = [one.mode, str(one.tiles), str(one.ranks), *kept]
        lines.append([*about, *(written(name, one[name]) for name in shown)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _messages(groups: Sequence[Group]) -> Iterator[str]:
    """What each kind of message takes, at the most processes."""
    told = [one for one in groups if any(row.messages for row in one.rows)]
    if not told:
        return
    most = max(one.ranks for one in told)
    own = {one.mode: one.rows[0].messages for one in told if one.ranks == most}
    kinds = [
        kind
        for kind in dict.fromkeys(kind for messages in own.values() for kind in messages)
        if any(max(messages.get(kind, (0.0, 0.0))) > 0 for messages in own.values())
    ]
    yield f"Of {most} processes, bytes a ray and ms a step by message:\n"
    lines = [["", *kinds], ["---"] + ["---:"] * len(kinds)]
    for mode, messages in own.items():
        pairs = (messages.get(kind) for kind in kinds)
        lines.append(
            [mode, *(f"{pair[0]:,.1f} / {pair[1]:.2f}" if pair else "-" for pair in pairs)]
        )
    yield "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _fits(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        at = f" in `{_under(row)}`" if row.run else ""
        own = as_options(row.cell.overrides)
        lines.append(f"* {_cell(row.state)}{at}: `{own}`")
    return "\n".join(lines) + "\n"


def _under(row: Row) -> str:
    assert row.run is not None
    return str(Path(*row.run.path.parts[-2:]))


def _cell(text: str) -> str:
    """Text that stays in its place of a table."""
    return " ".join(text.split()).replace("|", "\\|")
