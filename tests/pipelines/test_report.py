"""The report as a document: complete, escaped, self-contained, the same bytes for the same inputs."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.benchmarks.card import BenchmarkCard
from pipelines.benchmarks.index import Benchmark
from pipelines.current import differences, metric_facts
from pipelines.figures import forest
from pipelines.report import read_scorecards, write_report
from pipelines.reporting import words
from pipelines.reporting.contact import CLASSES, Renderer, contact, data_uri, scale_bar_um
from pipelines.reporting.lanes import Axis
from pipelines.scores import read_confounds
from pipelines.workspace import Workspace
from registry.errors import BenchmarkError, ParamsError
from registry.evidence import WORDS
from registry.files import write_json
from registry.images import ImageSpec
from tests.pipelines.report_workspace import BLIND, HOSTILE, NARROW, NUISANCE, PROTOCOL, STORY, ladder, make_workspace, scorecards

VOID = {"meta", "img", "input", "br", "hr", "link"}

#: rows of the screen that are asked about replicates
REPLICATED = ("simclr", "untrained-cnn", "density", "random", "constant", "layout")


@dataclass
class Page(HTMLParser):
    """What a browser would find: elements in order, visible text, and whether every tag is closed in turn."""

    html: str
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.texts))

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = make_workspace(tmp_path_factory.mktemp("report"), HOSTILE)
    write_report(made, made.params())
    return made


@pytest.fixture(scope="module")
def html(workspace: Workspace) -> str:
    return (workspace.root / "reports" / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_same_inputs_elsewhere_give_the_same_bytes(workspace: Workspace, html: str, tmp_path: Path) -> None:
    elsewhere = Workspace(tmp_path / "another" / "folder")
    shutil.copytree(workspace.root, elsewhere.root, ignore=shutil.ignore_patterns("reports"))
    write_report(elsewhere, elsewhere.params())
    assert (elsewhere.root / "reports" / "index.html").read_text(encoding="utf-8") == html
    assert str(workspace.root) not in html


def test_the_document_is_well_formed_and_its_references_resolve(page: Page) -> None:
    assert page.open == []
    ids = page.attributes("id")
    assert [i for i, n in Counter(ids).items() if n > 1] == []
    inside = [href[1:] for href in page.attributes("href") if href.startswith("#")]
    labels = [i for value in page.attributes("aria-labelledby") for i in value.split()]
    assert len(inside) > 20
    assert set(inside + labels) <= set(ids)
    assert Counter(tag for tag, _ in page.elements)["h1"] == 1
    assert {"header", "nav", "main"} <= {tag for tag, _ in page.elements}


def test_nothing_is_loaded_from_anywhere(html: str, page: Page) -> None:
    loads = [v for name in ("src", "srcset", "poster", "data", "action", "background") for v in page.attributes(name)]
    assert loads
    assert all(v.startswith("data:image/jpeg;base64,") for v in loads)
    links = [(tag, a["href"]) for tag, a in page.elements if "href" in a]
    assert {tag for tag, _ in links} == {"a", "use"}
    assert {href for _, href in links if not href.startswith("#")} == {"simulators/culture.html", "claims.html"}
    assert not re.search(r"@import|url\(|https?://", html)
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}


def test_only_its_own_style_and_script_may_run(html: str, page: Page) -> None:
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    for tag in ("style", "script"):
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert len(found) == 1
        assert f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(found[0].encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy
    assert page.attributes("style") == []
    assert [name for _, a in page.elements for name in a if name.startswith("on")] == []


def test_a_hostile_title_and_label_are_text(html: str, page: Page) -> None:
    assert "<script>alert" not in html
    assert HOSTILE in page.text
    assert "dog & <b>wolf</b>" in page.text
    assert any("dog & <b>wolf</b>" in label for label in page.attributes("aria-label"))


def test_every_verdict_and_its_evidence_is_said(workspace: Workspace, page: Page) -> None:
    found = [(card, task) for card in scorecards(workspace) for task in card.tasks]
    assert {task.word for _, task in found} == set(WORDS)
    for card, task in found:
        assert words.as_sentence(task.sentence.replace("`", "").replace("[-", "[−").replace("gain -", "gain −")) in page.text
        assert f"{card.benchmark}--{task.task}--{card.row}" in page.attributes("id")
        for comparison in task.comparisons:
            assert words.signed(comparison.gain) in page.text
        for unit, value in task.per_unit.items():
            assert f"{unit}{words.number(value)}".replace(" ", "") in page.text.replace(" ", "")
    for text in (
        "0.41 [0.22, 0.61]",
        "bits beyond the controlsbeats +0.120 [0.050, 0.200]",
        "It adds 0.120 bits. 0.9 bits left.",
        "Stronger but not servable: cell-graph 0.990 (needs nuclei.parquet)",
    ):
        assert text in page.text
    assert page.text.count("beats this encoder: the place on the plate alone tells more") == 1


def test_the_interval_that_decided_is_printed_everywhere(workspace: Workspace, page: Page) -> None:
    """`equivalent` is decided over the mean of the twins, the other words by one more draw of them."""
    for card in scorecards(workspace):
        for task in card.tasks:
            plot = page.text.split(f"simclr against each of its controls on {task.task}:")[1].split("smallest gain, against density")[1][:80]
            if task.word == "equivalent":
                decided = words.interval(task.low_of_mean, task.high_of_mean)
                assert decided != words.interval(task.low, task.high)
                assert f"{words.signed(task.gain)} {decided} against density, twins by their mean" in page.text
                assert f"{decided}twins by their mean" in plot
            elif task.low is not None:
                decided = words.interval(task.low, task.high)
                assert f"{words.signed(task.gain)} {decided} against density its twins alone" in page.text.replace("densityits", "density its")
                assert decided in plot
                assert "by their mean" not in plot
            for twin in (c for c in task.comparisons if c.role == "twin" and c.low is not None):
                both = f"{words.signed(twin.gain)} {words.interval(twin.low, twin.high)}mean {words.interval(twin.low_of_mean, twin.high_of_mean)}"
                assert both in page.text


def test_lines_that_are_drawn_are_explained_and_others_are_not(page: Page) -> None:
    captions = re.findall(r"simclr against each of its controls on ([\w-]+):(.*?)control *its score", page.text)
    assert {task: "thick: over their mean" in caption for task, caption in captions} == {
        task: word != "not assessable" for story in STORY.values() for task, word in story.items()
    }


def test_an_encoder_stands_beside_its_twins_and_best_control_in_what_few_images_tell(page: Page) -> None:
    drawn = [a for tag, a in page.elements if tag == "svg" and a.get("class") == "curve"]
    assert len(drawn) == len(STORY["culture"]) + len(STORY["tissue"])
    assert drawn[0]["aria-label"].startswith(
        "Few-shot curves on count. simclr: 0.538 with 1, 0.543 with 4, 0.565 with 16, 0.644 with all. untrained-cnn: 0.5"
    )
    text = page.text.split("How soon and how plainly it is read")
    assert len(text) == 3
    culture, tissue = (part.split("Which metrics can tell")[0] for part in text[1:])
    count = culture.split("count simclr; control tasks by treatment")[1].split("texture simclr")[0]
    # density has the highest score of the controls
    assert [row for row in REPLICATED if row in count] == ["simclr", "untrained-cnn", "density"]
    for said in ("0.538 → 0.565 all 0.644", "0.808 1.000", "+0.180 [0.130, 0.230] control task 0.543"):
        assert said.replace(" ", "") in count.replace(" ", ""), said
    assert "[−0.30, 1.20]score 0.611" in count
    assert "0.37 [0.21, 0.55]score 0.611" in culture
    assert "not estimable: `histogram` lacks" in page.attributes("title")
    assert "Selectivity on arrangement: not estimable: no treatment is met in one patient and another." in tissue
    assert "control tasks by" not in tissue.split("arrangement simclr")[1][:20]
    assert "share of brightness0.37 [0.21, 0.55]" in page.text
    for meaning in words.PROBING.values():
        assert meaning.replace("`", "") in page.text


def test_a_nuisance_is_decoded_and_not_judged(workspace: Workspace, page: Page) -> None:
    (encoder,) = [c for c in scorecards(workspace) if (c.benchmark, c.row) == ("culture", "simclr")]
    (layout,) = [c for c in scorecards(workspace) if (c.benchmark, c.row) == ("culture", "layout")]
    mine, place = (next(s for s in c.scores if s.task == NUISANCE and s.primary) for c in (encoder, layout))
    row = page.text.split("In which half of the plate did it lie?")[1][:200]
    known = words.interval(mine.low, mine.high)
    assert f"decoded, not judged{words.number(mine.value)} {known}" in row
    assert f"layout {words.number(place.value)}, chance 0.50" in row
    assert f"simclr decodes it at {words.number(mine.value)} {known}, layout at {words.number(place.value)}; chance is 0.50." in page.text
    assert "No encoder was compared" not in page.text


def test_the_common_dimension_stands_beside_the_verdict(workspace: Workspace, html: str, page: Page) -> None:
    assert page.text.count("the same at PCA 64") == 3
    assert page.text.count("undecided at PCA 64") == 2
    assert "at PCA 64loses: no row here is larger" in page.text
    again = [s for c in scorecards(workspace) for s in c.at_common_dim]
    assert len(again) == 6
    for entry in again:
        assert f'<td class="n" data-v="{entry.value}">{words.number(entry.value)}</td>' in html
    assert NARROW in page.text


def test_which_metrics_can_tell_is_said_where_it_was_asked(page: Page) -> None:
    assert page.text.count("Which metrics can tell") == len(STORY)
    assert BLIND.replace("`", "") in page.text
    for name in ("tissue", "everyday"):
        assert (
            f"Not asked yet. blankslide ladder {name} makes encoders of known quality and finds out; blankslide report then says it here."
            in page.text
        )
    assert "blankslide ladder culture" not in page.text
    assert (
        "5 runs of each ladder, with rungs at simclr: 0, 1, 2 and 8 epochs of training; supervised: 0, 2, 6 and 20 epochs of training." in page.text
    )
    assert "no metric is judged there. Trained and tested on the first of 3 outer splits." in page.text
    table = page.text.split("Framed: the last rung is not clearly ahead of it.")[1].split("How alike the metrics rank")[0]
    count, texture = table.split("texture no ladder rises")
    assert "count simclr rises" in count
    assert "logistic.balanced_accuracyorders0.80 [0.43, 1.00]0.602 → 0.9020.80 [0.43, 1.00]0.602 → 0.9020.5000.4970.512" in count
    assert "logistic.calibration_errorblind" in count
    assert "geometry.participation_ratioreversed0.80 [0.43, 1.00]7.002 → 4.0020.80 [0.43, 1.00]7.002 → 4.0020.0000.497–" in count
    assert texture.count("no ladder") == 3
    framed = [a["title"] for _, a in page.elements if "rewarded" in a.get("class", "")]
    assert framed == ["trained encoders are not clearly ahead of it"]


def test_where_it_was_not_asked_the_command_is_named(workspace: Workspace, tmp_path: Path) -> None:
    bare = Workspace(tmp_path / "bare")
    shutil.copytree(workspace.root, bare.root, ignore=shutil.ignore_patterns("ladder.json"))
    write_report(bare, bare.params())
    text = Page((bare.root / "reports" / "index.html").read_text(encoding="utf-8")).text
    assert "Not asked yet. blankslide ladder culture makes encoders of known quality and finds out; blankslide report then says it here." in text
    assert "Framed" not in text


def test_a_page_with_images_that_may_not_be_passed_on_says_so(workspace: Workspace, page: Page, tmp_path: Path) -> None:
    closed = Workspace(tmp_path / "closed")
    shutil.copytree(workspace.root, closed.root)
    folder = closed.data("culture")
    replace(BenchmarkCard.read(folder), licence="CC-BY-NC-4.0").write(folder)
    write_report(closed, closed.params())
    text = Page((closed.root / "reports" / "index.html").read_text(encoding="utf-8")).text
    said = "CC-BY-NC-4.0. This page shows images, and is not to be passed on with them: CC-BY-NC-4.0 limits the purpose (NC)"
    assert text.count(said) == 1
    # the two other benchmarks state no licence; this one did
    other = "This page shows images, and is not to be passed on with them"
    assert (text.count(other), page.text.count(other)) == (3, 2)


def test_ladders_are_drawn_with_better_above(page: Page) -> None:
    found = [(a.get("class", ""), [tuple(map(float, p.split(","))) for p in a["points"].split()]) for t, a in page.elements if t == "polyline"]
    lines = [(kind, points) for kind, points in found if kind in ("", "mean")]
    # two tasks, three metrics, two ladders: five runs and their mean
    assert Counter(kind for kind, _ in lines) == {"": 2 * 3 * 2 * 5, "mean": 2 * 3 * 2}
    assert all([x for x, _ in line] == [2.0, 22.0, 42.0, 62.0] for _, line in lines)
    means = [[y for _, y in line] for kind, line in lines if kind == "mean"][:6:2]
    # accuracy rises; so does a falling error, drawn upside down; the last one falls
    for drawn, upwards in zip(means, (True, True, False), strict=True):
        assert drawn == sorted(drawn, reverse=upwards)
    dashed = [float(a["y1"]) for _, a in page.elements if a.get("class") == "constant"][:6:2]
    # a constant is below all of the first metric, above all of the second
    assert dashed[0] > max(means[0])
    assert dashed[1] < min(means[1])


def test_agreement_over_encoders_lies_above_the_diagonal_and_over_rows_below(page: Page) -> None:
    heat = page.text.split("below: over the 8 rows of this benchmark.")[1].split("The rows")[0]
    rows = "1 logistic.balanced_accuracy−0.420.61 2 logistic.calibration_error0.870.04 3 geometry.participation_ratio––"
    assert rows.replace(" ", "") in heat.replace(" ", "")
    shades = [a["class"] for tag, a in page.elements if tag == "td" and re.search(r"\bh\d", a.get("class", ""))]
    assert shades == ["n h2 below", "n h3", "n h4"]


def test_a_ladder_of_other_data_rules_or_libraries_is_shown_as_out_of_date(workspace: Workspace, tmp_path: Path) -> None:
    other = Workspace(tmp_path / "other")
    shutil.copytree(workspace.root, other.root)
    now = metric_facts(other, other.params(), "culture")
    assert differences(now, now) == []
    was = {
        "data": {"culture": "another hash"},
        "protocols": {**now["protocols"], "retrieval": "older"},
        "settings": {**now["settings"], "seed": 7},
        "versions": {name: version for name, version in now["versions"].items() if name != "numpy"},
    }
    write_json(other.ladder("culture") / "ladder.json", ladder(was))
    write_report(other, other.params())
    text = Page((other.root / "reports" / "index.html").read_text(encoding="utf-8")).text
    changed = "the index of culture, the protocol of retrieval, seed of params.yaml, numpy changed since"
    assert f"Out of date: {changed}. blankslide ladder culture makes what that touches again." in text
    assert BLIND.replace("`", "") in text
    write_json(other.ladder("culture") / "ladder.json", {"data_hash": "of a version before"})
    with pytest.raises(BenchmarkError, match=r"`out/ladder/culture` was written by an earlier version. Repeat `blankslide ladder culture`"):
        write_report(other, other.params())


def test_every_word_of_the_page_is_explained(page: Page) -> None:
    terms = [term for term, _ in words.glossary(64, 15)]
    assert terms == sorted(terms, key=str.lower)
    for term in ("balanced accuracy", "AUROC", "probe", "p of no gain", "PCA 64", "share of the gap", "bits beyond the controls", "twins", "unit"):
        assert term in terms
        assert term in page.text
    assert "{" not in " ".join(text for _, text in words.glossary(64, 15))


def test_scorecards_of_an_earlier_version_are_read(workspace: Workspace) -> None:
    """Bundles in a registry hold scorecards without the newer fields."""
    card = next(c for c in scorecards(workspace) if c.row == "simclr" and c.benchmark == "culture")
    value = card.as_dict()
    del value["at_common_dim"]
    for task in value["tasks"]:
        for name in ("low_of_mean", "high_of_mean", "negligible", "at_common_dim"):
            del task[name]
        for comparison in task["comparisons"]:
            del comparison["low_of_mean"], comparison["high_of_mean"]
    old = type(card).from_dict(value)
    assert type(card).from_dict(card.as_dict()) == card
    assert [t.interval for t in old.tasks] == [(t.low, t.high) for t in card.tasks]
    assert not any(c.several for t in old.tasks for c in t.comparisons)


def test_every_row_every_score_and_every_reason_is_listed(workspace: Workspace, html: str, page: Page) -> None:
    cards = scorecards(workspace)
    assert html.count("<tr data-task=") == sum(len(card.scores) for card in cards)
    without_interval = sum(score.low is None for card in cards for score in card.scores)
    assert html.count('</b></td><td class="n" data-v="">–</td>') == without_interval > 0
    headers = re.findall(r'<th scope="row">([^<]+)</th>', html)
    expected = Counter(row for card in cards for row in [card.row] * (len(card.scores) + 1))
    expected += Counter(c.row for name in STORY for c in read_confounds(workspace.scores(name)) if c.score == "kBET")
    # asked about replicates once, and what is known of the screen under two alignments
    assert Counter(headers) == expected + Counter(REPLICATED * 3)
    assert page.text.count("Not applicable: the benchmark has no nuclei.parquet") == len(STORY)
    assert page.text.count("Not applicable: no wells") == len(STORY) - 1
    assert html.count('class="flag" title=') == 3 * len(STORY)
    assert page.text.count("low rank the vectors vary in very few directions.") == len(STORY)
    assert html.count(f'<code title="{PROTOCOL}">{words.protocol(PROTOCOL)}</code>') == html.count("<tr data-task=")
    assert page.text.count(PROTOCOL) == len(STORY)


def test_the_questions_about_replicates_stand_there_for_a_screen(html: str, page: Page) -> None:
    assert html.count('-replicates">Replicates</h3>') == 1
    assert "Do wells of one of 8 treatments find each other?" in page.text
    assert html.count('<b>0.457</b> <span class="soft">75% found, 62% by copairs (parity), 0% tied</span>') == len(REPLICATED) - 1
    assert html.count('<td class="n" title="not estimable: it is fitted anew">–</td>') == 1
    assert "activity</th>" not in html
    assert "Activity: not estimable: the index names no control wells." in page.text
    least = "Replicability: the share found is 0 or at least 25.0%: with so many treatments the lowest p that there can be is too high for fewer."
    assert page.text.count(least) == 1
    assert "The drop is not estimable: all replicates lie in the same well of their plates." in page.text
    assert html.count('<td class="n" title="of 7 positions">43%</td>') == len(REPLICATED) - 1
    assert html.count('<td class="n" title="not estimable: a constant has no correlation">–</td>') == 1


def test_known_biology_stands_there_with_its_chance_and_every_alignment(html: str, page: Page) -> None:
    assert html.count('-known">Known biology</h3>') == 1
    first, others = html.partition('-known">Known biology</h3>')[2].partition("</section>")[0].split("The same under 1 other alignment")
    assert "Wells aligned by <code>centre-scale</code>." in first
    said = "0.101, p 0.005, −0.072 elsewhere (60% of relations)"
    cell = f'<td class="n" title="over 17; in other wells {{}}"><b>{{}}</b> <span class="soft">{said}</span></td>'
    of_shown, of_other = cell.format("0.272", "0.343"), cell.format("0.140", "0.212")
    assert (first.count(of_shown), first.count(of_other)) == (len(REPLICATED) - 1, 0)
    assert (others.count(of_other), others.count(of_shown)) == (len(REPLICATED) - 1, 0)
    assert '<th scope="rowgroup" colspan="6">none</th>' in others
    assert first.count('<td class="n" title="not estimable: the profile of `t1` is 0">–</td>') == 5
    said = "0.000, p 0.012, −0.040 elsewhere (80% of queries)"
    shares = f'<td class="n" title="over 9; in other wells 0.302"><b>0.343</b> <span class="soft">{said}</span></td>'
    never = '<td class="n" title="over 9; in other wells 0.343"><b>0.343</b> <span class="soft">0.000, p 0.012</span></td>'
    assert (first.count(shares), first.count(never)) == (len(REPLICATED) - 1, len(REPLICATED) - 1)
    none = "Labels found, moa: none can be found, however strong: with 9 labels the lowest p that there can be is too high at a false discovery rate"
    assert page.text.count(none) == 1
    assert page.text.count("Labels, target in other wells: no two treatments of a label share a well, so that nothing can drop.") == 1
    published = '<td class="n" title="over 12"><b>0.343</b> <span class="soft">0.030, parity 0.293</span></td>'
    assert first.count(published) == len(REPLICATED) - 1
    assert "by the published p, below 0.05" in first
    assert "recall, paths, null over genes</th>" in first
    assert "magnitude</th>" not in first
    assert "Magnitude: not estimable: too few control wells." in page.text
    assert "tvn: not estimable: Batch p1 has 1 controls." in page.text


def test_retrieval_in_other_wells_stands_beside_retrieval_or_why_it_cannot_be_asked(html: str) -> None:
    lines = [line for line in html.splitlines() if ">retrieval.map<" in line]
    assert len(lines) == 2
    assert 'title="[0.240, 0.301], chance 0.24, 96 profiles">0.271</td>' in lines[0]
    assert 'title="not estimable: all images of a label lie in the same well of every plate' in lines[1]
    assert "in other<br>wells</th>" in html


def test_batch_and_place_stand_beside_the_scores(workspace: Workspace, html: str, page: Page) -> None:
    assert html.count('-confounds">Batch and place</h3>') == 2
    assert page.text.count("if nothing of the plate were in the row, part of what looks like biology may be the plate.") == 1
    assert page.text.count("part of what looks like biology may be the patient.") == 1
    found = [c for name in STORY for c in read_confounds(workspace.scores(name))]
    for row in {c.row for c in found}:
        lines = re.findall(rf'<tr><th scope="row">{row}</th>(<td class="n" title=.*?)</tr>', html)
        # and what is known of the only screen, twice; a dash of the constant among its replicates
        assert len(lines) == (1 if row == "layout" else 2) + 2 + (row == "constant")
        decoded = next(c for c in found if (c.row, c.score) == (row, "decoding"))
        assert f"<b>{words.number(decoded.value)}</b> " in lines[0]
        assert ">0.250<" in lines[0]
        assert words.interval(decoded.low, decoded.high) in lines[0]
        # what one row lacks is a dash that says why, in its place
        assert ("<b>0.123</b>" in lines[0]) == (row != "constant")
        assert ('title="not estimable: the vectors do not differ between images">–' in lines[0]) == (row == "constant")
    # what no row has is no column
    assert "NSC</th>" not in html
    assert page.text.count("NSC: not estimable: no column says which compound it is.") == 2
    assert page.text.count("Share of neighbourhoods as mixed as the whole") == 2


def test_notes_truth_and_provenance_are_there(workspace: Workspace, page: Page) -> None:
    assert page.text.count("Images as units: optimistic.") >= 2
    assert "5 or 6 cells, exactly" in page.text
    for name in STORY:
        assert Benchmark.read(workspace.data(name)).data_hash() in page.text
    for text in ("dvc repro", "mlflow ui", "blankslide serve simclr@culture", "numpy", "2.4.6", "max loss"):
        assert text in page.text


def test_the_counts_at_the_top_are_those_of_the_scorecards(page: Page) -> None:
    assert "6 verdicts on 1 encoder and 3 benchmarks: 2 beats 1 loses 1 equivalent 1 undecided 1 not assessable" in page.text
    counts = "better than every control on 1, beaten by a control on 1, no different from the best control on 1, undecided on 1."
    assert f"better than its own untrained twins on 4 of 4 tasks, {counts}" in page.text
    assert "on 0 of 1 task, better than every control on 0, not assessable on 1." in page.text


def test_pictures_have_a_size_and_a_description(page: Page) -> None:
    pictures = [a for tag, a in page.elements if tag == "img"]
    assert len(pictures) > 60
    assert all(a["width"].isdigit() and a["height"].isdigit() and "alt" in a for a in pictures)
    described = [a["aria-label"] for _, a in page.elements if a.get("role") == "img" and a.get("class") != "curve"]
    assert sum("example image" in label for label in described) == len(described) == 24


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(html: str, theme: str) -> None:
    blocks = re.findall(r":root \{(.*?)\}", html, re.DOTALL)
    colours = {name: value for block in blocks[: 1 if theme == "light" else 2] for name, value in re.findall(r"--([\w-]+): (#\w{6});", block)}
    for name in ("ink", "soft", "link", "beats", "loses", "equivalent", "undecided", "not-assessable", "twin", "negative"):
        assert _contrast(colours[name], colours["paper"]) >= 4.5, name


def _contrast(one: str, other: str) -> float:
    """WCAG 2.1 contrast ratio."""

    def luminance(colour: str) -> float:
        light = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(light <= 0.03928, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_without_benchmarks_or_scorecards_it_says_what_to_do(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"`compare` in params\.yaml names no benchmark"):
        write_report(workspace, replace(workspace.params(), compare=[]))
    bare = Workspace(tmp_path)
    shutil.copytree(workspace.data("everyday"), bare.data("everyday"))
    with pytest.raises(BenchmarkError, match=r"Run `blankslide diagnose everyday`\."):
        write_report(bare, replace(workspace.params(), compare=["everyday"]))
    assert not (tmp_path / "reports").exists()


def test_starting_the_stage_imports_no_plotting() -> None:
    code = (
        "import sys, pipelines.report, pipelines.figures; print([m for m in ('matplotlib', 'jinja2', 'PIL', 'torch', 'sklearn') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------------ parts


def test_an_axis_places_values_and_round_ticks() -> None:
    axis = Axis(-0.5, 0.5)
    assert [axis.at(v) for v in (-0.5, 0.0, 0.25, 9.0)] == ["0.00%", "50.00%", "75.00%", "100.00%"]
    assert axis.span(-0.1, 0.1) == ("40.00%", "20.00%")
    assert [t.label for t in axis.ticks(signed=True)] == ["−0.4", "−0.2", "0", "+0.2", "+0.4"]
    lane = axis.lane(0.1, 0.0, 0.4)
    assert (lane.point, lane.start, lane.width, lane.peak) == ("60.00%", "50.00%", "40.00%", "25.0")
    assert axis.lane(0.1).start == ""


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-0.03, 0.02), (0.5, 0.5), (-40.0, 17.0), (0.491, 0.523)])
def test_an_axis_holds_its_values_and_a_few_ticks_within_it(ends: tuple[float, float]) -> None:
    axis = Axis.around([*ends, None])
    assert axis.low < ends[0] <= ends[1] < axis.high
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 7
    values = [float(t.label.replace("−", "-")) for t in ticks]
    assert all(axis.low <= v <= axis.high for v in values)
    assert len(set(np.round(np.diff(values), 9))) == 1


def test_numbers_as_people_read_them() -> None:
    assert [words.number(v) for v in (None, 0.9126, -0.031, -0.0001)] == ["–", "0.913", "−0.031", "0.000"]
    assert [words.signed(v) for v in (0.031, -0.031, 0.0001, 0.0)] == ["+0.031", "−0.031", "0.000", "0.000"]
    assert (words.interval(-0.1, 0.2), words.interval(None, 0.2)) == ("[−0.100, 0.200]", "")
    assert [words.probability(v) for v in (None, 0.0004, 0.0213)] == ["–", "< 0.001", "0.021"]
    assert [words.count(n, noun) for n, noun in ((1, "plate"), (2, "plate"), (1200, "class"), (3, "body"), (2, "day"))] == [
        "1 plate",
        "2 plates",
        "1,200 classes",
        "3 bodies",
        "2 days",
    ]
    assert words.coded("`<i>` & `b`") == "<code>&lt;i&gt;</code> &amp; <code>b</code>"
    assert words.metric("knn.balanced_accuracy") == "balanced accuracy of a nearest-neighbour probe"
    assert set(words.VERDICTS) == set(WORDS)
    assert words.protocol("knn/k15/v1") != words.protocol("knn/k15/v2")


def test_examples_come_from_different_units_and_test_images(workspace: Workspace) -> None:
    benchmark = Benchmark.read(workspace.data("culture"))
    found = contact(benchmark, tiles=20)
    index = benchmark.index.set_index("image_id")
    for sheet, task in zip(found.sheets, benchmark.card.tasks, strict=True):
        assert [c.label for c in sheet.classes] == sorted(set(index[task.column]), key=lambda s: [int(p) if p.isdigit() else p for p in s.split()])
        for shown in sheet.classes:
            assert set(index.loc[list(shown.image_ids), task.column]) == {shown.label}
            assert shown.count == (index[task.column] == shown.label).sum()
    count = found.sheets[0].classes[0]
    assert len(count.image_ids) == 8
    assert index.loc[list(count.image_ids), "unit"].is_unique
    assert (index.loc[list(count.image_ids), "fold"] == 0).all()
    assert [c.name for c in found.channels] == ["DNA", "ER", "RNA", "AGP", "Mito"]
    assert (found.bar, found.bar_percent) == ("20 µm", "31.25%")


def test_more_classes_than_can_be_pictured_are_counted(workspace: Workspace) -> None:
    benchmark = Benchmark.read(workspace.data("culture"))
    many = replace(benchmark, index=benchmark.index.assign(label_count=[f"class {i + 1}" for i in range(24)]))
    sheet = contact(many, tiles=4).sheets[0]
    assert [len(c.uris) for c in sheet.classes] == [1] * CLASSES
    assert (sheet.classes[9].label, sheet.left_out) == ("class 10", 0)


def test_an_image_that_cannot_be_read_is_left_out(workspace: Workspace, tmp_path: Path) -> None:
    shutil.copytree(workspace.data("everyday"), tmp_path / "everyday")
    benchmark = Benchmark.read(tmp_path / "everyday")
    before = contact(benchmark, tiles=20).sheets[0].classes[0]
    (tmp_path / "everyday" / benchmark.index.set_index("image_id")["path"][before.image_ids[0]]).write_bytes(b"\x89PNG\r\n\x1a\n")
    assert contact(benchmark, tiles=20).sheets[0].classes[0].image_ids == before.image_ids[1:]


def test_rgb_is_shown_as_it_is() -> None:
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 255, (3, 4, 4)), np.ones((8, 8))).astype(np.float32)
    spec = ImageSpec(("red", "green", "blue"), "uint8", 32, 32, ((0.0, 255.0),) * 3)
    rgb = Renderer.of(spec, [pixels])(pixels)
    np.testing.assert_array_equal(rgb, np.moveaxis(pixels, 0, -1).astype(np.uint8))
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(data_uri(rgb).partition(",")[2]))), dtype=float)
    assert np.abs(decoded - rgb).mean() < 8


def test_a_composite_shows_each_channel_in_its_colour_and_all_images_at_one_stretch() -> None:
    spec = ImageSpec(("one", "two"), "uint16", 10, 10, ((0.0, 1000.0),) * 2)
    dim, bright = np.full((2, 10, 10), 100, np.float32), np.full((2, 10, 10), 100, np.float32)
    dim[0, 2, 2], bright[0, 2, 2], bright[1, 7, 7] = 300, 900, 500
    renderer = Renderer.of(spec, [dim, bright])
    first, second = renderer(dim), renderer(bright)
    assert first[0, 0].tolist() == [0, 0, 0]
    assert 0 < first[2, 2].sum() < second[2, 2].sum()
    hue = [c / np.linalg.norm(c) for c in (second[2, 2].astype(float), second[7, 7].astype(float))]
    np.testing.assert_allclose(hue, renderer.colours / np.linalg.norm(renderer.colours, axis=1, keepdims=True), atol=0.02)


def test_a_constant_channel_and_one_channel_do_not_break_the_picture() -> None:
    spec = ImageSpec(("grey",), "float32", 6, 6, ((0.0, 1.0),))
    rgb = Renderer.of(spec, [np.zeros((1, 6, 6), np.float32)])(np.zeros((1, 6, 6), np.float32))
    assert rgb.tolist() == np.zeros((6, 6, 3), int).tolist()


@pytest.mark.parametrize(
    ("pixel_size_um", "resize", "expected"), [(2.0, "refuse", 50.0), (0.108, "refuse", 2.0), (None, "refuse", 0), (2.0, "linear", 0)]
)
def test_the_scale_bar_is_round_and_only_where_lengths_are_known(pixel_size_um: float | None, resize: str, expected: float) -> None:
    assert scale_bar_um(ImageSpec(("a",), "uint8", 64, 64, ((0.0, 255.0),), pixel_size_um, resize)) == expected


def test_forest_plots_for_the_registry_are_pngs_with_stable_bytes(workspace: Workspace) -> None:
    import matplotlib

    found = {task.word: task for card in scorecards(workspace) for task in card.tasks}
    for word in ("beats", "not assessable"):
        drawn = forest(found[word])
        with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red"}):
            assert forest(found[word]) == drawn
        with Image.open(io.BytesIO(drawn)) as picture:
            assert picture.format == "PNG"
            assert np.asarray(picture.convert("L")).std() > 10
            assert picture.info.get("Software") is None
    assert forest(replace(found["beats"], question="costs $5 or $6?")) != forest(found["beats"])


def test_scorecards_are_read_in_order(workspace: Workspace) -> None:
    names = [card.row for card in read_scorecards(workspace, "culture")]
    assert names == sorted(names)
    assert len(names) == 8
