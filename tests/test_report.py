"""The report: tables to the letter, the front, and the page as a browser reads it."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rheobase as rb
from rheobase.comparison.answer import answer
from rheobase.comparison.cells import Cell, Delay, Identity, LayerLoss, Measured
from rheobase.comparison.grid import About
from rheobase.comparison.page import SCRIPT_ID, html_page
from rheobase.comparison.plots import DARK, INK, LIGHT, apart, coloured, draw, pareto_front
from rheobase.neurons.response import Alphabet
from tables import unpadded

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
IDENTITY = Identity(
    versions={"rheobase": "0.1.0", "torch": "2.9"},
    model_sha256="a" * 64,
    calibration_sha256="b" * 64,
    test_sha256="c" * 64,
    validation_sha256=None,
    max_pool="refuse",
    num_calibration_images=512,
    energy_images=256,
)


def cell(method: str, timesteps: int, seed: int, accuracy: float, seconds: float = 1.5, **changes: Any) -> Cell:
    measured = Measured(
        images=400,
        accuracy=accuracy,
        agreement=accuracy - 0.0025,
        logit_error=1 / (timesteps + 3),
        spike_rate=0.125,
        ann_accuracy=0.9925,
        energy_ratio=0.0625 * timesteps,
        picojoules=5e5 * timesteps,
        ann_picojoules=8e6,
        energy_images=256,
        not_counted=("comparisons with thresholds",),
    )
    fields: dict[str, Any] = {
        "method": method,
        "timesteps": timesteps,
        "seed": seed,
        "recipe": rb.OPI(timesteps=timesteps).to_dict(),
        "training": None,
        "status": "done",
        "test": measured,
        "latency": Delay(first=1, final=timesteps, streaming=timesteps),
        "calibration_seconds": seconds,
        "execution": "steps",
        "alphabet": Alphabet.upto(1),
        "notes": ["thresholds: 2 silent channels"],
        "finished": "2026-01-02T03:04:05+00:00",
        "identity": IDENTITY,
        **changes,
    }
    return Cell(**fields)


def refused(method: str, timesteps: int, seed: int, reason: str = "needs a quantised network") -> Cell:
    gone = dict.fromkeys(("test", "latency", "calibration_seconds", "execution", "alphabet"))
    return cell(method, timesteps, seed, 0.5, **gone, status="refused", reason=reason, notes=[])


def comparison(*cells: Cell, images: int = 400) -> rb.comparison.Comparison:
    about = About(
        network="Net_1",
        sites=5,
        neurons=2048,
        notes=("conv: batch normalisation folded",),
        images={"calibration": 1000, "test": images},
        ann_accuracy={"calibration": 1.0, "test": 0.9925},
        identity=IDENTITY,
        training=None,
        machine={"processor": "x86_64", "cpus": 2, "threads": 1},
    )
    return rb.comparison.Comparison(about, {c.method: rb.OPI() for c in cells}, cells)


SMALL = comparison(
    cell("OPI", 2, 0, 0.75, 1.0),
    cell("OPI", 2, 1, 0.85, 2.0),
    cell("OPI", 4, 0, 0.95),
    cell("OPI", 4, 1, 0.95),
    cell("50%_A&B", 2, 0, 0.8, alphabet=Alphabet.signed(4)),
    refused("50%_A&B", 2, 1, "ran out of steps"),
    refused("50%_A&B", 4, 0),
    refused("50%_A&B", 4, 1),
)

# Deviations by hand: 75 and 85 -> √(25 + 25) = 7.07; 1 and 2 seconds -> √½ = 0.7.
MARKDOWN = """\
| method | T | alphabet | accuracy (%) | agreement with ANN (%) | logit error | spikes / neuron / step | bits / spike \
| latency (steps) | if streaming (steps) | energy / ANN | calibration (s) |
|:-|-:|:-|-:|-:|-:|-:|-:|-:|-:|-:|-:|
| OPI | 2 | {0, 1} | 80.00 ± 7.07 | 79.75 ± 7.07 | 0.200 ± 0.000 | 0.1250 ± 0.0000 | 1.00 ± 0.00 \
| 2 ± 0 | 2 ± 0 | 0.125 ± 0.000 | 1.5 ± 0.7 |
| OPI | 4 | {0, 1} | 95.00 ± 0.00 | 94.75 ± 0.00 | 0.143 ± 0.000 | 0.1250 ± 0.0000 | 1.00 ± 0.00 \
| 4 ± 0 | 4 ± 0 | 0.250 ± 0.000 | 1.5 ± 0.0 |
| 50%_A&B (1 of 2 seeds) | 2 | {-4..4} | 80.00 | 79.75 | 0.200 | 0.1250 | 3.17 | 2 | 2 | 0.125 | 1.5 |

Net_1 on 400 test images (analog network: 99.25 %), spikes counted for the energy on 256 of them; \
for the energy, a spike of magnitude k is counted as k additions; mean ± standard deviation over 2 seeds.

Did not run:

- 50%_A&B (T = 2; seed 1): ran out of steps
- 50%_A&B (T = 4): needs a quantised network
"""

LATEX = r"""% Net_1 on 400 test images (analog network: 99.25 %), spikes counted for the energy on 256 of them; for the energy, a spike of magnitude k is counted as k additions; mean ± standard deviation over 2 seeds
\begin{tabular}{lrlrrrrrrrrr}
\toprule
method & T & alphabet & accuracy (\%) & agreement with ANN (\%) & logit error & spikes / neuron / step & bits / spike & latency (steps) & if streaming (steps) & energy / ANN & calibration (s) \\
\midrule
OPI & 2 & \{0, 1\} & 80.00 $\pm$ 7.07 & 79.75 $\pm$ 7.07 & 0.200 $\pm$ 0.000 & 0.1250 $\pm$ 0.0000 & 1.00 $\pm$ 0.00 & 2 $\pm$ 0 & 2 $\pm$ 0 & 0.125 $\pm$ 0.000 & 1.5 $\pm$ 0.7 \\
OPI & 4 & \{0, 1\} & 95.00 $\pm$ 0.00 & 94.75 $\pm$ 0.00 & 0.143 $\pm$ 0.000 & 0.1250 $\pm$ 0.0000 & 1.00 $\pm$ 0.00 & 4 $\pm$ 0 & 4 $\pm$ 0 & 0.250 $\pm$ 0.000 & 1.5 $\pm$ 0.0 \\
\addlinespace
50\%\_A\&B (1 of 2 seeds) & 2 & \{-4..4\} & 80.00 & 79.75 & 0.200 & 0.1250 & 3.17 & 2 & 2 & 0.125 & 1.5 \\
\bottomrule
\end{tabular}
"""  # noqa: E501


def test_markdown_to_the_letter() -> None:
    assert unpadded(SMALL.to_markdown()) == MARKDOWN
    assert str(SMALL) == SMALL.to_markdown()


def test_latex_to_the_letter() -> None:
    lines = [line.strip() for line in unpadded(SMALL.to_latex()).splitlines()]
    assert lines == LATEX.splitlines()


def test_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(SMALL.to_csv())))
    assert [(row["method"], row["timesteps"], row["seeds"]) for row in rows] == [
        ("OPI", "2", "2"),
        ("OPI", "4", "2"),
        ("50%_A&B", "2", "1"),
        ("50%_A&B", "4", "0"),
    ]
    assert (rows[0]["accuracy"], rows[0]["accuracy_deviation"]) == ("80", "7.07107")
    assert (rows[2]["accuracy"], rows[2]["accuracy_deviation"]) == ("80", "")
    assert rows[3]["accuracy"] == rows[3]["energy_ratio"] == ""
    assert rows[0]["training_seconds"] == ""
    assert [row["alphabet"] for row in rows] == ["{0, 1}", "{0, 1}", "{-4..4}", ""]
    assert [row["bits"] for row in rows] == ["1", "1", "3.16993", ""]


def test_one_seed_has_no_deviation() -> None:
    text = comparison(cell("OPI", 2, 0, 0.75)).to_markdown()
    assert "±" not in text
    assert "| OPI | 2 | {0, 1} | 75.00 | 74.75 |" in unpadded(text)


POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


@given(POINTS)
def test_pareto_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    def beaten(x: int, y: int) -> bool:
        return any(a <= x and b >= y and (a, b) != (x, y) for a, b in points)

    front = [points[i] for i in pareto_front(points)]
    assert sorted(set(front)) == sorted({p for p in points if not beaten(*p)})
    assert front == sorted(set(front))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=15).map(sorted))
def test_labels_do_not_overlap(heights: list[float]) -> None:
    places = apart(heights, gap=0.05)
    assert all(b - a >= 0.05 - 1e-9 for a, b in pairwise(places))
    assert 0 <= places[0] <= places[-1] <= 1 + 1e-9
    if all(b - a >= 0.05 for a, b in pairwise(heights)):
        assert places == pytest.approx(heights)


# The answer


def test_the_answer_by_hand() -> None:
    """Energies are 0.125 and 0.25; what has not run for every seed is no answer."""
    found = answer(SMALL)
    assert found is not None
    assert found.part == "test"
    best = [(row.within, row.entry.method, row.entry.timesteps) for row in found.rows]
    assert best == [("2 steps", "OPI", 2), ("4 steps", "OPI", 4), ("25 % energy", "OPI", 4), ("no limit", "OPI", 4)]
    assert found.sentences == (
        "OPI at T = 4 is the most accurate: 95.00 %, 4.25 points below the analog network (99.25 %).",
    )
    assert answer(comparison(refused("OPI", 2, 0))) is None


def test_the_shortest_latency_near_the_analog_network() -> None:
    found = answer(comparison(cell("fast", 2, 0, 0.98), cell("slow", 8, 0, 0.99), cell("best", 32, 0, 0.9925)))
    assert found is not None
    assert found.sentences == (
        "best at T = 32 is the most accurate: 99.25 %, equal to the analog network (99.25 %).",
        "The shortest latency that loses at most 1 point: 8 steps, by slow at T = 8.",
    )
    far = answer(comparison(cell("far", 2, 0, 0.5)))
    assert far is not None
    assert far.sentences[1] == "No method stays within 5 points of the analog network."


def test_the_answer_is_chosen_on_validation_images() -> None:
    """The test images prefer the other one."""
    cells = cell("a", 4, 0, 0.9), cell("b", 4, 0, 0.8)
    validation = [c.test.model_copy(update={"accuracy": x}) for c, x in zip(cells, (0.7, 0.75), strict=True) if c.test]
    found = comparison(*(c.model_copy(update={"validation": v}) for c, v in zip(cells, validation, strict=True)))
    images, scores = {"validation": 300, "test": 400}, {"validation": 0.99, "test": 0.9925}
    found = replace(found, about=replace(found.about, images=images, ann_accuracy=scores))
    given = answer(found)
    assert given is not None
    assert given.part == "validation"
    assert {row.entry.method for row in given.rows} == {"b"}
    assert "80.00 %" in given.sentences[0]


MANY = [cell(f"m{i}", t, 0, 0.9 - i / 20 + t / 1000) for i in range(12) for t in (2, 4)]


def test_of_many_methods_those_of_the_answer_have_a_colour() -> None:
    """The others are grey, and named where the pointer rests."""
    found = comparison(*MANY)
    assert coloured(found) == {"m0": 0}
    assert len(coloured(comparison(*MANY[:16]))) == 8
    plot = draw(found)["timesteps"]
    assert ">m0<" in plot.file
    assert ">m7<" not in plot.file
    assert "<title>m7</title>" in plot.inline
    assert len(re.findall("<title>", plot.inline)) == 12
    assert "Grey: the others" in html_page(found)


@pytest.mark.slow
def test_the_loss_of_every_layer_is_on_the_page() -> None:
    layers = [LayerLoss(site=f"site{i}", error=0.1 * i, own=0.05 / i, cause="unevenness") for i in (1, 2)]
    read = Reader(html_page(comparison(cell("OPI", 2, 0, 0.9, layers=layers))))
    assert (
        "Error at the last layer: OPI, T = 2: 20.0 %. OPI, T = 2 loses most at site1, mainly by unevenness."
        in read.text
    )
    assert len([tag for tag, _ in read.elements if tag == "svg"]) == 4


def test_kinds_of_alphabet() -> None:
    alphabets = [Alphabet.upto(1), Alphabet.signed(1), Alphabet.upto(3), Alphabet((-2, -1, 0, 1, 2))]
    assert [alphabet.kind for alphabet in alphabets] == ["binary", "signed", "graded", "signed graded"]


# The page


class Reader(HTMLParser):
    """What a page holds: table rows as text, elements with their attributes, the text of the results block."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.document = "", ""
        self._cell = self._script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self._cell = tag in ("td", "th") or (self._cell and tag not in ("tr", "table"))
        self._script = tag == "script" and dict(attrs).get("id") == SCRIPT_ID

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")
        self._script = self._script and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._script:
            self.document += data
            return
        self.text += data
        if self._cell:
            self.rows[-1][-1] += data.strip()


def test_the_page_stands_alone_and_is_well_formed() -> None:
    page = html_page(SMALL)
    read = Reader(page)
    assert json.loads(read.document) == json.loads(json.dumps(SMALL.to_json()))
    # nothing to fetch: no address but the names of the SVG namespaces, no script but the block of data
    assert {u.split("/")[2] for u in re.findall(r"https?://[^\s\"'<)]+", page)} <= {"www.w3.org"}
    assert not [a for _, a in read.elements if "src" in a or (a.get("href") or "#")[0] != "#"]
    assert [a["type"] for tag, a in read.elements if tag == "script"] == ["application/json"]
    assert "default-src 'none'" in page
    ids = [a["id"] for _, a in read.elements if "id" in a]
    assert len(ids) == len(set(ids))
    used = {a["xlink:href"] for _, a in read.elements if "xlink:href" in a} | set(re.findall(r"url\((#[^)]+)\)", page))
    used |= {a["href"] for tag, a in read.elements if tag == "a"}
    assert used <= {f"#{name}" for name in ids}
    assert ("html", {"lang": "en"}) in read.elements
    images = [a for tag, a in read.elements if tag == "svg"]
    assert len(images) == 3
    for image in images:
        assert image["role"] == "img"
        assert set((image["aria-labelledby"] or "").split()) <= set(ids)
    headers = [a for tag, a in read.elements if tag == "th"]
    assert all(a.get("scope") in ("col", "row") for a in headers)
    assert "needs a quantised network" in read.text
    assert "2 silent channels" in read.text
    assert "comparisons with thresholds" in read.text
    assert "c" * 64 in read.text
    assert "#0000" not in page  # every colour is the page's


@pytest.mark.slow
def test_the_alphabet_and_the_counting_are_on_the_page() -> None:
    read = Reader(html_page(SMALL))
    assert ["50%_A&B (1 of 2 seeds)", "2", "{-4..4}"] in [row[:3] for row in read.rows]
    assert "a spike of magnitude k is counted as k additions" in read.text
    products = {"identity": IDENTITY.model_copy(update={"graded_spikes": "products"})}
    found = comparison(cell("OPI", 2, 0, 0.8, alphabet=Alphabet.signed(4), **products))
    found = replace(found, about=replace(found.about, **products))
    assert "one multiplication by k with an addition" in found.caption
    assert "one multiplication by k with an addition" in Reader(html_page(found)).text


def test_a_file_of_an_earlier_version_has_no_alphabet() -> None:
    line = json.loads(cell("OPI", 2, 0, 0.75).model_dump_json())
    assert line["alphabet"] == {"values": [0, 1]}
    del line["alphabet"], line["identity"]["graded_spikes"]
    old = Cell.model_validate(line)
    assert (old.bits, old.identity) == (None, IDENTITY)
    text = comparison(old).to_markdown()
    assert "| OPI | 2 | - | 75.00 |" in unpadded(text)
    assert "bits / spike" not in text


def test_names_cannot_break_the_page() -> None:
    name = r"</script><script>alert(1)</script> & <b> \1"
    read = Reader(html_page(comparison(cell(name, 2, 0, 0.5), refused(name, 4, 0, "is <i>odd</i>"))))
    assert [tag for tag, _ in read.elements if tag in ("b", "i")] == []
    assert len([tag for tag, _ in read.elements if tag == "script"]) == 1
    assert json.loads(read.document)["cells"][0]["method"] == name
    assert [name, "2", "{0, 1}", "50.00"] in [row[:4] for row in read.rows]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a$^$b", "$x$", "_good"])
def test_names_stand_in_the_plots_as_they_are(name: str) -> None:
    plots = draw(comparison(cell(name, 2, 0, 0.5), cell(name, 4, 0, 0.6)))
    assert all(name in plot.file for plot in plots.values())


def test_a_page_where_nothing_ran() -> None:
    page = html_page(comparison(refused("OPI", 2, 0)))
    assert "<svg" not in page
    assert "needs a quantised network" in page


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("paper", "colours"), [("#ffffff", (*LIGHT, INK[0])), ("#12161b", (*DARK, INK[1]))])
def test_colours_can_be_told_from_the_page(paper: str, colours: tuple[str, ...]) -> None:
    for colour in colours:
        high, low = sorted((_luminance(paper), _luminance(colour)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, colour  # WCAG 2.2, level AA


def rendered(page: str, folder: Path) -> str:
    """The document that a browser of the width of a phone makes of the page."""
    assert CHROMIUM is not None
    (folder / "report.html").write_text(page, encoding="utf-8")
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    options = [*quiet, f"--user-data-dir={folder / 'profile'}", "--window-size=390,844", "--dump-dom"]
    address = (folder / "report.html").as_uri()
    done = subprocess.run([CHROMIUM, *options, address], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


NEEDS_BROWSER = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium to open the page with (Debian: apt-get install chromium)"
)


@pytest.mark.slow
@NEEDS_BROWSER
def test_a_phone_scrolls_in_one_direction(tmp_path: Path) -> None:
    """With a script that measures, which the page's own policy would not run."""
    page = re.sub("<meta http-equiv.*?>", "", html_page(comparison(*MANY, refused("r" * 60, 2, 0, "w" * 200))))
    script = "<script>document.title = `${document.documentElement.scrollWidth} of ${innerWidth}`</script>"
    width, of = re.findall(
        r"<title>(\d+) of (\d+)</title>", rendered(page.replace("</body>", f"{script}</body>"), tmp_path)
    )[0]
    assert int(width) <= int(of) <= 500


@NEEDS_BROWSER
def test_a_browser_reads_the_numbers(tmp_path: Path) -> None:
    document = rendered(html_page(SMALL), tmp_path)
    read = Reader(document)
    assert ["OPI", "2", "{0, 1}", "80.00 ± 7.07", "79.75 ± 7.07"] in [row[:5] for row in read.rows]
    assert ["OPI", "80.00 ± 7.07", "95.00 ± 0.00"] in read.rows
    results = json.loads(read.document)
    assert results["entries"][0]["accuracy"]["mean"] == pytest.approx(80.0)
    assert len([tag for tag, _ in read.elements if tag == "svg"]) == 3
