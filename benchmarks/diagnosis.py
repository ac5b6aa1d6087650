"""Is the cause named? Every cause of the catalogue is planted; diagnose and audit are asked.

    python benchmarks/diagnosis.py [--models resnet,vgg,...] [--causes 1-17] [--seeds N] [--verbose]

A planted fault comes with the evidence that a user would hold (sample_models/faults). ``diagnose`` is given
all of it; ``audit`` the files alone. A case is right when the first finding names the cause, or a group that
it is one of, at the right layer, in the right channels where single ones are to blame, with the right remedy.
Healthy models are given the same kinds of evidence: an error there is a false one. Exits with 1 below 98 %,
or on a false error.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from bnfold.checkpoint import load_with_notes, read  # noqa: E402
from bnfold.finding import Finding  # noqa: E402
from bnfold.statistics.audit import examine_all  # noqa: E402
from bnfold.statistics.causes import CATALOGUE  # noqa: E402
from bnfold.statistics.contents import Known, subjects_of  # noqa: E402
from bnfold.statistics.diagnose import examine  # noqa: E402
from sample_models.faults import CAUSES, SAMPLES, SITUATIONS, plant, samples_for, spare  # noqa: E402
from sample_models.faults.planted import WHOLE, Evidence, PlantedFault  # noqa: E402

NUMBERS = {cause.code: cause.numbers for cause in CATALOGUE}

# what a remedy must say
REMEDIES = {
    "recalibrate": "recalibrate",
    "plain_weights": "take the weights of",
    "debias": "--debias",
    "floor_variance": "floor",
    "float32": "float32",
    "one_norm_per_call": "for each place",
    "momentum": "1 - sqrt(1 - m)",
    "restore": "intact file",
    "merge": "merge",
    "population_statistics": "population statistics",
    "adapt": "--prior",
}
ALSO = {"restore": "restore the statistics"}

DEFAULT = ("mlp_before", "resnet", "mobilenet_v2", "repvgg", "lung_ct")


@dataclass(frozen=True)
class Case:
    """One planted fault and what was said of it.

    Attributes:
        cause, sample, seed: what was planted.
        first: the first finding of ``diagnose``; None where there is none.
        named, layer, channels, remedy: whether each of these is right.
        audited: whether one of the findings of ``audit`` names the cause.
    """

    cause: int
    sample: str
    seed: int
    first: Finding | None
    named: bool
    layer: bool
    channels: bool
    remedy: bool
    audited: bool

    @property
    def right(self) -> bool:
        return self.named and self.layer and self.channels and self.remedy


def judge(fault: PlantedFault) -> Case:
    """Give the tool the evidence and compare what it says with what is the matter."""
    diagnosed, audited = said_of(fault.evidence, fault.state)
    first = diagnosed[0] if diagnosed else None
    named = first is not None and fault.cause in NUMBERS.get(first.code, ())
    words = (REMEDIES[fault.remedy], ALSO.get(fault.remedy, REMEDIES[fault.remedy]))
    return Case(
        fault.cause,
        fault.evidence.sample,
        fault.seed,
        first,
        named,
        first is not None and first.evidence.get("layer") == fault.layer,
        fault.channels is None
        or (first is not None and sorted(first.evidence.get("channels", [])) == sorted(fault.channels)),
        first is not None and any(word in first.remedy for word in words),
        any(fault.cause in NUMBERS.get(finding.code, ()) for finding in audited),
    )


def said_of(evidence: Evidence, state: str) -> tuple[list[Finding], list[Finding]]:
    """What ``diagnose`` says with all of the evidence, and ``audit`` with the files alone."""
    name = None if state == WHOLE else state
    with tempfile.TemporaryDirectory() as folder:
        files = evidence.write(Path(folder))
        loaded = load_with_notes(
            files.checkpoint, evidence.model, model_args=dict(evidence.model_args), state=name
        )
        against = None if files.against is None else read(files.against)
        known = Known(evidence.steps)
        alone = subjects_of(read(files.checkpoint), known, against=against)
        (subject, *_) = subjects_of(
            loaded.checkpoint, known, state=name, module=loaded.module, against=against
        )
        result = examine(
            loaded.module,
            evidence.frames,
            deployment=evidence.deployment,
            subject=subject,
        )
        return result.findings, examine_all(alone).findings


def planted(causes: Iterable[int], samples: Iterable[str], seeds: int) -> Iterator[PlantedFault]:
    """Every fault that can be planted."""
    for cause in causes:
        for sample in samples:
            if sample not in samples_for(cause):
                continue
            for seed in range(seeds):
                try:
                    yield plant(sample, cause, seed)
                except LookupError as error:  # this network does not mind
                    print(f"  {cause} in {sample}, seed {seed}: {error}", file=sys.stderr)


def table(cases: list[Case]) -> str:
    """A row per cause: what it was called, and how many layers, channels and remedies are right."""
    by_cause: dict[int, list[Case]] = defaultdict(list)
    for case in cases:
        by_cause[case.cause].append(case)
    lines = [
        "| cause | planted | named as | right | layer | channels | remedy | audit alone |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cause, found in sorted(by_cause.items()):
        names = Counter(case.first.code if case.first else "nothing" for case in found)
        told = ", ".join(f"{code} {count}" for code, count in names.most_common())
        counts = [
            sum(getattr(case, kind) for case in found) for kind in ("named", "layer", "channels", "remedy")
        ]
        audited = sum(case.audited for case in found)
        lines.append(f"| {cause} | {len(found)} | {told} | {' | '.join(map(str, counts))} | {audited} |")
    return "\n".join(lines)


def healthy(samples: Iterable[str], seeds: int) -> tuple[int, list[str]]:
    """How many healthy situations there were, and the false errors in them."""
    count, wrong = 0, []
    for sample in samples:
        for situation in SITUATIONS:
            for seed in range(seeds):
                evidence = spare(sample, situation, seed)
                for state in evidence.states:
                    diagnosed, audited = said_of(evidence, state)
                    count += 1
                    wrong += [
                        f"{sample}, {situation}, {state}, seed {seed}: {finding.code} {finding.where}: "
                        f"{finding.message}"
                        for finding in (*diagnosed, *audited)
                        if finding.severity == "error"
                    ]
    return count, wrong


def numbers(text: str) -> list[int]:
    """``1,4-6``."""
    found: list[int] = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        found += range(int(low), int(high or low) + 1)
    return found


def main() -> int:
    """Plant, ask, count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(DEFAULT), help=f"of {', '.join(SAMPLES)}; or all")
    parser.add_argument("--causes", type=numbers, default=list(CAUSES), help="as in 1,4-6")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--verbose", action="store_true", help="every case")
    options = parser.parse_args()
    samples = list(SAMPLES) if options.models == "all" else options.models.split(",")
    torch.set_num_threads(1)
    begun = time.perf_counter()
    cases = []
    for fault in planted(options.causes, samples, options.seeds):
        case = judge(fault)
        cases.append(case)
        if options.verbose or not case.right:
            said = f"{case.first.code} at {case.first.where}" if case.first else "nothing"
            truth = f"{fault.layer} {fault.channels or ''}".strip()
            mark = "right" if case.right else "WRONG"
            print(f"  {mark}: {case.cause} in {case.sample}, seed {case.seed} ({truth}): {said}", flush=True)
    print(table(cases))
    right = sum(case.right for case in cases)
    print(f"\n{right} of {len(cases)} right in everything: {right / max(len(cases), 1):.1%}")
    count, wrong = healthy(samples, options.seeds)
    print(f"{len(wrong)} false errors in {count} healthy situations", *wrong, sep="\n  ")
    print(f"{time.perf_counter() - begun:.0f} s, torch {torch.__version__}")
    return int(right < 0.98 * len(cases) or bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
