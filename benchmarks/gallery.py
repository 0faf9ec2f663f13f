"""`make gallery`: every bundled recipe in full, its evidence as a table in docs/gallery.md.

With names of recipes, or titles of sections, only these are run, again where they were; each one's section is kept, and the page
has all that were run.
"""

import re
import shlex
import sys
from pathlib import Path

from benchmarks.kept import RESULTS
from benchmarks.methods import STAGES
from benchmarks.page import stage, texts
from benchmarks.texts import STAGES as TEXT_STAGES
from limbeck.evidence.retention import shown_retention
from limbeck.evidence.schema import Evidence
from limbeck.evidence.tables import writing
from limbeck.evidence.verdict import outcome
from limbeck.evidence.words import NAMES
from limbeck.recipe.reading import bundled, read
from limbeck.run import run

GALLERY, RECIPES = Path(__file__).parent.parent / "docs" / "gallery.md", RESULTS / "recipes"
METHODS = """## Methods on Fashion-MNIST

Every method beside the same student without a teacher (control), with label smoothing, on hard pseudo-labels (where there are
images without a label) and with plain soft targets, all at the same steps. Three weights of each were tried on validation at the
first seed. Test accuracy is the mean ± standard deviation over seeds; differences are in points, with the 95 % interval over
paired seeds. *Gap closed* is the share of the way from control to teacher. p is the larger of that over seeds (paired t-test) and
that over test images (z-test), corrected for the number of methods (Holm): with three seeds only large effects can pass. *CKA* is
how alike the last layer is to the teacher's last stage (debiased linear CKA, validation images, no projector).
A method that a table lacks has not been run there yet.

What the two screenings say. With 1,000 labels every teacher that is asked about all images helps, and how its logits are
compared decides how much: DIST and standardised logits, which leave scale and shift alone, and temperatures by difficulty are
ahead of plain soft targets, and so are its hard answers. No term on layers or relations adds to soft targets what these seeds
could show. NKD, WSLD and decoupled learn from labelled images only, and are far behind where these are few. With all labels
little is to be had: DIST gains a point, label smoothing and temperatures by difficulty half of one, and nearly all else is
below the student without a teacher. The best method closes 54 % and 16 % of the gap with a student of an eighth of its teacher's
size; the aim was 80 % and 60 %.

Twice the steps and five seeds (another teacher of the same recipe) take the best to 64 % and 19 %. With 1,000 labels
temperatures by difficulty, DIST and hard pseudo-labels are within half a point of each other, and up to a point above plain
soft targets; temperatures by difficulty alone pass the correction. With all labels DIST gains most, which does not pass it
against the control. Why not more: a student of this size seems to have nearly all that it can have. With 1,000 labels and this
teacher it is as good as with all 58,000 labels and none (87.4 and 87.3 %); 80 % of the gap would be 89.3 %, and no student of
this size was that good here, with whatever method, labels or steps. With few labels it is the taught who gain by longer
training (DIST 85.9 to 87.2 %, the control 79.5 to 79.7); with all labels the control gains as much (85.0 to 87.3), so that
steps alone will not close what is left there.

The MLP-mixer, which is built otherwise than its teacher, gains more: with 1,000 labels DIST closes 76 % of its gap, and with
the teacher and 1,000 labels it is better than with all labels and none (87.5 and 85.8 %). Over soft targets DIST gains 1.49
points there (0.85 in the convolutional student), and with all labels it passes the correction against the control too. MGD adds
0.65 points to soft targets with 1,000 labels, the only term on layers or relations of which these tables show that it adds
something; standardised logits, as good as plain ones in the convolutional student, are a point behind them here.

"Patient and consistent" (12,000 steps on pictures that are mixed at will and seen by both sides, from the teacher alone) makes
the best convolutional students of all: 88.3 % with 1,000 labels and 88.5 % with all, by plain soft targets at temperature 1,
above DIST. But its control gains as much by mixing: with 1,000 labels it goes from 79.7 to 84.6 %, so that 52 % of the gap is
closed, and not 72 as it would seem against a control without; with all labels 20 %.

With 1,000 labels that size is a part of what bounds it, as a larger student shows: with two and a half times the parameters (a
third of the teacher's) and the same 4,000 steps DIST closes 75 % in place of 62 (88.8 and 87.2 %), and plain soft targets 72 in
place of 55, so that how logits are compared hardly matters any more. With all labels its control gains as much as the taught:
DIST closes 29 % (89.7 %, the control 88.8).

Why 60 % of the gap is missed with all labels, as far as it could be found. Not because the teacher repeats labels that it has
learnt: four cross-fitted teachers (`teacher.folds`), of which each image is answered by the one that was not trained on it,
leave their students where one teacher does (DIST 88.0 and 88.1 %, soft targets 86.8 both times; of the larger student 89.3 and
89.7 %), and the one teacher is hardly better on its training images than on others (92.9 and 91.7 %). It seems to be size: on
the very images that they learn from students have 88.0 % (control), 87.7 % (soft targets) and 88.7 % (DIST; both of the
cross-fitted teachers), half a point to a point more than on new ones (`python -m benchmarks.capacity`), and 60 % of the gap
would be 89.9 %. Who cannot fit the answers does not lack better ones. How the larger student fits them was not measured.

Rows with a label as a quarter of what is read (`labelled-share`) hardly help soft targets (83.8 %, 83.6 without), and what learns
from labelled images only gains little or nothing by it. DIST with temperatures by difficulty has what DIST alone had in the
screening, of another teacher. A learnt choice among layers adds nothing to soft targets: it settles on the teacher's first stage,
which is the easiest to follow.
"""
TEXTS = """## Students of text

MiniLM-L6, fine-tuned on all labels of the task, as the teacher. Every route beside the same student without a teacher
(control), on hard pseudo-labels where there are texts without a label, and with plain soft targets, all with as many steps in
all. *Above chance* is the student's accuracy less that of always naming the most frequent class, by the teacher's. Differences,
intervals and p as above. A route that a table lacks has not been run there yet.

What was reached, against what we aimed at. **95 % above chance at a fifth of the size and five times the speed: not reached**;
85 % at a fifth of the size and eight to nine times the speed (PyTorch, one text at a time), 82 % at a ninth of the size and 4.5
times the speed, both by students that begin with random weights. Half of the teacher's layers keep 93 %, at three quarters of
the size (its embeddings are most of it) and twice the speed. **Hidden states worth 3 points beside soft targets: not reached**;
1.4 in the MobileBERT-like student, 0.2 to 1.2 in the small one, and nothing where the student is made of the teacher's layers.
Attention is worth 1.2 to 1.7 to the small student and nothing there either. None of this is settled by three seeds once it is
corrected for the number of routes. **Texts written anew worth 2.7 points: not reached**; 1.2 with 1,000 labels and 0.8 with all.

With 1,000 labels the teacher is worth 10 to 12 points to students of random weights, and 4 to one that is made of its layers;
hard pseudo-labels alone have most of that. With all labels soft targets add 1.0 to the control, and attention 2.2. TinyBERT in as
many steps as the others have is no better than soft targets; more than half of its steps pass before it learns an answer, and
seeds of students of random weights lie up to 14 points apart, as some fall into a hole at the rate that all routes share. On
tweets, without its general training, it is the best of all by a hair; in half of the layers it is as good as soft targets.
Theseus, which learns from labels alone, is 1.2 points above the control and 2.7 below soft targets.

An outside yardstick: MiniLM-L3, which others made of the same family by distilling on a large corpus and which is as large as
our half, fine-tuned on the same 1,000 labels. It is 2.7 points below our control, which begins as three of the six layers of a
teacher that was fine-tuned on all labels (what we hold against the control is the teacher's answers, not its weights), and 6.6
points below our student with soft targets.
"""
_FEW = "data.limit=12000", "regime.server=null"  # fewer public rows, and few plain steps on the server
_PLAIN = "labels: 1, soft-targets: {weight: 1, temperature: 1}"
VARIANTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "adaptation-digits": (
        (f"objective={{{_PLAIN}}}",),
        (f'objective={{{_PLAIN}, domain-adversarial: {{student: "head:in", weight: 0.3}}}}',),
    ),
    "digits": (
        ("data.labelled=all",),
        ("objective={labels: 0.1, soft-targets: 0.9, gradient-penalty: 0.01}",),
        ("objective={labels: 0.1, soft-targets: 0.9, gradient-penalty: 0.1}",),
    ),
    "born-again": (("seeds=6",),),
    "ensemble": (("seeds=8",),),
    "mutual": (("seeds=8",),),
    "distilbart": (("student.layers.decoder=1",),),
    "federated": (
        ("seeds=8",),
        _FEW,
        (*_FEW, "seeds=8"),
        (*_FEW, "regime.alpha=null"),
        (*_FEW, "regime.alpha=null", "regime.rounds=30"),
    ),
}
"""Recipes that are also run otherwise: where no teacher helps, clients who are alike, without a term or with one more, and with
more seeds where three settle nothing."""


def section(title: str, command: str, evidence: Evidence) -> str:
    """One recipe's results with their provenance."""
    rows = []
    for name, arm in evidence.arms.present().items():
        spread = "" if arm.spread is None else f" ± {evidence.measure.spread(arm.spread)}"
        size = f"{arm.efficiency.parameters:,}" if arm.efficiency else ""
        latency = f"{arm.efficiency.latency.p50_ms:.2f} ms" if arm.efficiency and arm.efficiency.latency else ""
        quality = f"{evidence.measure.value(arm.mean.score)}{spread} | {arm.mean.nll:.3f} | {arm.mean.ece:.3f}"
        rows.append(f"| {NAMES[name]} | {quality} | {size} | {latency} |")
    steps = "".join(
        f"\n- {step.step}: {evidence.measure.gained(step.difference.mean, step.difference.ci95, before='95 % interval ')}"
        for step in evidence.attribution
    )
    kept = "".join(
        f"\n- {NAMES[one['name']]}: {one['note']}" for one in (shown_retention(evidence) or {"arms": []})["arms"]
    )
    wrote = _written(evidence)
    origin = evidence.provenance
    teacher = f"teacher {origin.teacher_fingerprint[:16]}, " if origin.teacher_fingerprint else ""
    versions = ", ".join(f"{name} {version}" for name, version in origin.versions.items())
    return (
        f"## {title}\n\n`{command}`\n\n**{outcome(evidence)}.** {evidence.sentence}\n\n"
        f"| arm | {evidence.measure.name} | NLL | ECE | parameters | latency, one example |\n|---|---|---|---|---|---|\n"
        + "\n".join(rows)
        + (f"\n\nWhat each ingredient added:\n{steps}\n" if steps else "\n")
        + (f"\nWhat was kept of earlier tasks:\n{kept}\n" if kept else "")
        + wrote
        + f"\n<sub>recipe {origin.recipe_hash}, data {(origin.data_fingerprint or '')[:16]}, {teacher}"
        f"seeds {list(origin.seeds)}, {origin.date}, {origin.device}, "
        f"{origin.threads} torch thread(s); {versions}</sub>\n"
    )


def _written(evidence: Evidence) -> str:
    """What language models wrote, in numbers."""
    told = writing(evidence)
    if told is None:
        return ""
    arms = [NAMES[name] for name in told["names"]]
    rows = [
        f"| **{row['name']}** |" + " |" * (1 + len(arms))
        if row["cells"] is None
        else f"| {row['name']} | " + " | ".join(cell or "" for cell in row["cells"]) + " |"
        for row in told["rows"]
    ]
    head = f"| | Reference | {' | '.join(arms)} |\n|---|" + "---|" * (1 + len(arms))
    return f"\nWhat they write. {told['note']}\n\n{head}\n" + "\n".join(rows) + "\n"


def methods() -> str:
    """The tables of `python -m benchmarks.methods`, as far as there are results."""
    found = [path for path in (RESULTS / f"methods-{name}.json" for name in STAGES) if path.exists()]
    return "\n" + METHODS + "\n" + "\n".join(map(stage, found)) if found else ""


def routes() -> str:
    """The tables of `python -m benchmarks.texts`, as far as there are results."""
    found = [path for path in (RESULTS / f"texts-{name}.json" for name in TEXT_STAGES) if path.exists()]
    return "\n" + TEXTS + "\n" + "\n".join(map(texts, found)) if found else ""


def page() -> str:
    """The gallery, of what was run."""
    written = (RECIPES / f"{_file(title)}.md" for _, title, _ in entries())
    return (
        "# Gallery\n\nEvery bundled recipe in full, as `make gallery` ran it. Accuracies are of the test part, mean and "
        "standard deviation over seeds; the control is the same student without the teacher.\n\nThe recipes that are called "
        "after a way of teaching (`hinton`, `attention`, ...) train their teacher on the same 1,000 labels as the student, so "
        "that it is two points better than the control, and little is to be had from it: they show how a recipe is written. "
        "What a method gives with a teacher that knows more is told [below](#methods-on-fashion-mnist), and what regimes were "
        "meant to reach [with them](regimes.md#what-they-reached-here).\n\n"
        + "\n".join(path.read_text() for path in written if path.exists())
        + methods()
        + routes()
    )


def entries() -> list[tuple[str, str, tuple[str, ...]]]:
    """Recipe, title and settings of each section."""
    return [
        (name, " ".join([name, *settings]), settings)
        for name in bundled()
        for settings in ((), *VARIANTS.get(name, ()))
    ]


def _file(title: str) -> str:
    return re.sub(r"[^\w.-]+", "-", title).strip("-")


def main(names: list[str]) -> None:
    """Runs the recipes of these names; without any, those that have no section yet."""
    RECIPES.mkdir(parents=True, exist_ok=True)
    for name, title, settings in entries():
        kept = RECIPES / f"{_file(title)}.md"
        if {name, title} & set(names) or not (names or kept.exists()):
            command = " ".join(["limbeck run", name, *(f"--set {shlex.quote(one)}" for one in settings)])
            found = run(read(name, settings), Path("runs") / "gallery" / _file(title), command=command).evidence
            kept.write_text(section(title, command, found))
    GALLERY.write_text(page())


if __name__ == "__main__":
    main(sys.argv[1:])
