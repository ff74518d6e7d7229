"""The report: one page for all benchmarks, self-contained and the same bytes for the same inputs."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from pipelines.benchmarks.index import Benchmark
from pipelines.beside.knowledge import read_all as read_knowledge
from pipelines.beside.probing import read_all as read_probing
from pipelines.beside.replicates import read_all as read_replicates
from pipelines.claims import Claim, claims
from pipelines.current import metric_facts
from pipelines.embeddings import read_rows
from pipelines.params import Params
from pipelines.reporting import words
from pipelines.reporting.contact import contact
from pipelines.reporting.expression import expression_view
from pipelines.reporting.ladders import LADDER_WORDS, NOTHING, read_ladder
from pipelines.reporting.views import BenchmarkView, benchmark_view
from pipelines.scores import read_confounds
from pipelines.workspace import Workspace
from registry.errors import BenchmarkError, ParamsError
from registry.evidence import WORDS, Scorecard
from registry.files import published, read_json

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
#: example images of the whole page, shared by its tasks: what keeps it a few megabytes
TILES = 320
#: example images of one task
TILES_PER_TASK = 32


@dataclass(frozen=True)
class Record:
    """How one encoder fared on one benchmark: the counts behind its line at the top."""

    benchmark: str
    title: str
    encoder: str
    tasks: int
    beats_twins: int
    words: Mapping[str, int]


def write_report(workspace: Workspace, params: Params) -> None:
    """Write `reports/index.html` about every benchmark of `params.compare`, and `reports/claims.html` on what the study's claims become there.

    Raises:
        ParamsError: nothing is compared.
        BenchmarkError: a benchmark has no scorecards yet, or its files contradict each other.
    """
    if not params.compare:
        raise ParamsError("`compare` in params.yaml names no benchmark. Name at least one; the report is about them.")
    benchmarks = [Benchmark.read(workspace.data(name)) for name in params.compare]
    tiles = min(TILES_PER_TASK, TILES // sum(len(b.card.tasks) for b in benchmarks))
    cards = {b.card.name: read_scorecards(workspace, b.card.name) for b in benchmarks}
    views = [
        benchmark_view(
            b,
            cards[b.card.name],
            read_rows(workspace.embeddings(b.card.name)),
            contact(b, tiles),
            params.diagnose.margin,
            read_confounds(workspace.scores(b.card.name)),
            read_ladder(workspace.ladder(b.card.name), metric_facts(workspace, params, b.card.name)),
            read_replicates(workspace.scores(b.card.name)),
            read_probing(workspace.scores(b.card.name)),
            expression_view(workspace.scores(b.card.name), read_rows(workspace.embeddings(b.card.name)), b.card.unit, params.diagnose),
            read_knowledge(workspace.scores(b.card.name)),
        )
        for b in benchmarks
    ]
    page = render(views, params, provenance([c for found in cards.values() for c in found]))
    path = workspace.root / "reports" / "index.html"
    with published(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    found = claims([card for scorecards in cards.values() for card in scorecards])
    with published(workspace.root / "reports" / "claims.html") as temporary:
        temporary.write_text(render_claims(found), encoding="utf-8")
    for claim in found:
        print(f"[report] {claim.name}: {claim.word}. {claim.found}", flush=True)
    print(f"[report] {len(views)} benchmarks, {sum(r.tasks for r in records(views))} verdicts, {len(page) / 1e6:.1f} MB: {path}", flush=True)


def read_scorecards(workspace: Workspace, benchmark: str) -> list[Scorecard]:
    """Every scorecard of one benchmark, in order of file names.

    Raises:
        BenchmarkError: there are none.
    """
    paths = sorted(workspace.verdicts(benchmark).glob("*.scorecard.json"))
    if not paths:
        raise BenchmarkError(f"`{benchmark}`: expected scorecards in `out/verdicts/{benchmark}`, found none. Run `blankslide diagnose {benchmark}`.")
    return [Scorecard.from_dict(read_json(path)) for path in paths]


def records(views: Sequence[BenchmarkView]) -> list[Record]:
    """One record per encoder and benchmark, in the order of the page."""
    found = []
    for view in views:
        for encoder in view.encoders:
            evidence = [v.evidence for t in view.tasks for v in t.verdicts if v.encoder == encoder]
            counts = Counter(e.word for e in evidence)
            beats_twins = sum(e.twin_word == "beats" for e in evidence)
            found.append(Record(view.card.name, view.card.title, encoder, len(evidence), beats_twins, {word: counts[word] for word in WORDS}))
    return found


def provenance(cards: Sequence[Scorecard]) -> dict[str, Any]:
    """Package versions, and the hash of each row's card, as the scorecards state them.

    Several versions of one package (scorecards made at different times) are all listed.
    """
    versions: dict[str, set[str]] = {}
    for card in cards:
        for package, version in card.provenance.get("versions", {}).items():
            versions.setdefault(package, set()).add(str(version))
    hashes = {f"{card.benchmark}/{card.row}": str(card.provenance.get("card_hash", "")) for card in cards}
    return {"versions": {package: ", ".join(sorted(found)) for package, found in sorted(versions.items())}, "cards": hashes}


def render(views: Sequence[BenchmarkView], params: Params, facts: Mapping[str, Any]) -> str:
    """The page as HTML."""
    style, script = (Markup((TEMPLATES / name).read_text(encoding="utf-8")) for name in ("report.css", "report.js"))
    found = records(views)
    page: str = (
        _environment()
        .get_template("report.html.j2")
        .render(
            views=views,
            records=found,
            total={word: sum(r.words[word] for r in found) for word in WORDS},
            encoders=list(dict.fromkeys(e for view in views for e in view.encoders)),
            params=params,
            parameters={section: asdict(getattr(params, section)) for section in ("evaluate", "diagnose", "gate")} | {"seed": params.seed},
            facts=facts,
            style=style,
            script=script,
            policy=content_security_policy(style, script),
            verdicts=words.VERDICTS,
            ladder_words=LADDER_WORDS,
            nothing=NOTHING,
            probing=words.PROBING,
            glossary=words.glossary(params.diagnose.common_dim, params.evaluate.neighbours),
            roles=words.ROLES,
            modalities=words.MODALITIES,
            flags=words.FLAGS,
        )
    )
    return page


def render_claims(found: Sequence[Claim]) -> str:
    """The page of claims as HTML."""
    style = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))
    policy = content_security_policy(style, "")
    page: str = _environment().get_template("claims.html.j2").render(claims=found, style=style, policy=policy)
    return page


def content_security_policy(style: str, script: str) -> str:
    """Nothing is loaded, and no style or script runs but these two, whatever a title or label holds."""
    policy = {"default-src": "'none'", "img-src": "data:", "style-src": _hashed(style), "script-src": _hashed(script), "form-action": "'none'"}
    return "; ".join(f"{name} {allowed}" for name, allowed in (policy | {"base-uri": "'none'"}).items())


def _hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "number": words.number,
        "signed": words.signed,
        "probability": words.probability,
        "metric": words.metric,
        "coded": words.coded,
        "protocol": words.protocol,
        "as_sentence": words.as_sentence,
        "slug": words.slug,
    }
    environment.globals |= {"interval": words.interval, "count": words.count, "plural": words.plural}
    return environment
