"""bnfold's artifacts against the exporters alone, side by side in one run, for every sample architecture.

    python benchmarks/fold.py [--only NAME,NAME] [--pairs 36] [--conversions 3] [--no-tflite]

For each network, with drawn statistics:

- BatchNorms and operators in the files;
- seconds of graph edits and algebra against capture (the certificate's apart);
- the time that a conversion to TFLite takes, capture and folding included and verification left out, over
  litert-torch's own: the median of interleaved pairs;
- latency of one frame on one thread, a peer's over bnfold's, so that above 1 bnfold's file is faster: the
  median of interleaved pairs, with a 95% interval by bootstrap. The peers are torch.onnx.export as it is, the
  same followed by OnnxSlim where that is installed, and litert-torch as it is.

What is measured is processor time, of the thread that runs the interpreter or of the process that converts:
other processes on the machine take none of it. Which of two goes first alternates from pair to pair, and each
interpreter is made anew several times, since where its buffers happen to lie is worth some per cent. At the
end comes the table of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURES = ROOT / "sample_models" / "architectures"
sys.path[:0] = [str(ROOT), str(ARCHITECTURES)]

import bnfold  # noqa: E402
from bnfold import manifest  # noqa: E402
from bnfold.export import tflite as tflite_target  # noqa: E402
from bnfold.export.quiet import quiet  # noqa: E402
from bnfold.fold import FoldResult  # noqa: E402
from bnfold.fold.site import BATCH_NORMS  # noqa: E402

Run = Callable[[], object]
Inputs = tuple[torch.Tensor, ...]

INSTANCES = 6  # of each interpreter
GOAL_LATENCY, GOAL_CONVERSION, GOAL_FOLD = 0.97, 0.8, 0.25


def drawn(module: torch.nn.Module) -> torch.nn.Module:
    """Statistics as after training: positive gammas around one."""
    generator = torch.Generator().manual_seed(0)
    for child in module.modules():
        if isinstance(child, torch.nn.modules.batchnorm._NormBase) and child.running_mean is not None:
            child.running_mean.normal_(0, 0.3, generator=generator)
            assert child.running_var is not None
            child.running_var.uniform_(0.3, 2, generator=generator)
            if child.affine:
                with torch.no_grad():
                    child.weight.uniform_(0.3, 1.5, generator=generator)
                    child.bias.normal_(0, 0.3, generator=generator)
    return module.eval()


def left_over(result: FoldResult) -> int:
    return sum(node.target in BATCH_NORMS for node in result.module.body.graph.nodes)


# --- interpreters, bare: what is timed is the file, not bnfold's runtime -------------------------------


def onnx_run(data: bytes, inputs: Inputs) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    feed = {spec.name: x.numpy() for spec, x in zip(session.get_inputs(), inputs, strict=True)}
    return lambda: session.run(None, feed)


def onnx_operators(data: bytes) -> list[str]:
    import onnx

    return [node.op_type for node in onnx.load_from_string(data).graph.node]


def tflite_run(data: bytes, inputs: Inputs) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    by_shape = list(inputs)
    for detail in interpreter.get_input_details():
        match = next(x for x in by_shape if tuple(x.shape) == tuple(detail["shape"]))
        by_shape.remove(match)
        interpreter.set_tensor(detail["index"], match.numpy())
    return interpreter.invoke


def tflite_operators(data: bytes) -> list[str]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    # without delegates, every operator of the file is counted
    kind = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=kind)
    return [operator["op_name"] for operator in interpreter._get_ops_details()]


# --- peers ---------------------------------------------------------------------------------------------


def torch_onnx(module: torch.nn.Module, inputs: Inputs) -> bytes:
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, inputs, dynamo=True, verbose=False)
    assert program is not None
    serialized: bytes = program.model_proto.SerializeToString()
    return serialized


def onnxslim(data: bytes) -> bytes:
    import onnx
    import onnxslim as slim

    with quiet():
        slimmed = slim.slim(onnx.load_from_string(data))
    serialized: bytes = slimmed.SerializeToString()
    return serialized


def litert(module: torch.nn.Module, inputs: Inputs) -> bytes:
    import litert_torch

    with quiet(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.tflite"
        litert_torch.convert(module, inputs).export(str(path))
        return path.read_bytes()


# --- measuring -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ratio:
    """The median of ratios, and the 95% interval of that median."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: list[float]) -> Ratio:
        draw = random.Random(0)
        medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000))
        return cls(statistics.median(ratios), medians[50], medians[-51])

    def __str__(self) -> str:
        return f"{self.median:.2f}x [{self.low:.2f}, {self.high:.2f}]"


def once(run: Run, calls: int) -> float:
    started = time.thread_time()
    for _ in range(calls):
        run()
    return (time.thread_time() - started) / calls


def latency(peer: Callable[[], Run], ours: Callable[[], Run], pairs: int) -> Ratio:
    """Latency of the peer's file over that of ours."""
    found = []
    for _ in range(INSTANCES):
        theirs, mine = peer(), ours()
        once(theirs, 5), once(mine, 5)
        calls = max(1, round(0.02 / max(once(mine, 5), 1e-6)))
        for pair in range(-(-pairs // INSTANCES)):
            if pair % 2:
                b, a = once(mine, calls), once(theirs, calls)
            else:
                a, b = once(theirs, calls), once(mine, calls)
            found.append(a / b)
    return Ratio.of(found)


@contextmanager
def clocked(places: list[tuple[Any, str]]) -> Iterator[list[float]]:
    """Processor seconds spent in these functions, by a list with one number."""
    spent = [0.0]

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[0] += time.process_time() - started

        return run

    originals = [getattr(owner, name) for owner, name in places]
    for (owner, name), original in zip(places, originals, strict=True):
        setattr(owner, name, wrapped(original))
    try:
        yield spent
    finally:
        for (owner, name), original in zip(places, originals, strict=True):
            setattr(owner, name, original)


def conversion(module: torch.nn.Module, inputs: Inputs, pairs: int) -> list[float]:
    """Time to convert to TFLite, folding included and verification apart, over litert-torch's own."""
    checks = [(sys.modules["bnfold.fold"], "certify"), (tflite_target, "crosscheck")]

    def ours() -> float:
        started = time.process_time()
        with clocked(checks) as checking:
            result = bnfold.fold(module, inputs)
            made = result.module
            tflite_target.export(made.body, made.inputs, made.outputs, result.captured.example)
        return time.process_time() - started - checking[0]

    def theirs() -> float:
        started = time.process_time()
        litert(module, inputs)
        return time.process_time() - started

    found = []
    for pair in range(pairs):
        gc.collect()
        if pair % 2:
            b, a = theirs(), ours()
        else:
            a, b = ours(), theirs()
        found.append(a / b)
    return found


@dataclass
class Row:
    """What was found of one network; a missing measurement is an empty cell."""

    name: str
    batch_norms: str
    fold: float
    cells: dict[str, str] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)


COLUMNS = (
    "torch.onnx.export",
    "with OnnxSlim",
    "ONNX operators",
    "litert-torch",
    "TFLite operators",
    "conversion",
)


def measure(
    name: str, factory: Callable[[], torch.nn.Module], shapes: Any, options: argparse.Namespace
) -> Row:
    torch.manual_seed(0)
    module = drawn(factory())
    inputs = tuple(torch.randn(shape) for shape in shapes)
    result = bnfold.fold(module, inputs)
    norms = result.report.batch_norms
    seconds = [result.report.seconds, *(bnfold.fold(module, inputs).report.seconds for _ in range(2))]
    share = statistics.median(each["fold"] / each["capture"] for each in seconds)
    counts = ", ".join(
        f"{sum(e.status == status for e in norms)} {status}"
        for status in ("folded", "reduced", "kept", "refused")
        if any(e.status == status for e in norms)
    )
    row = Row(name, f"{len(norms)}: {counts}", share)
    first = seconds[0]
    print(
        f"{name}: BatchNorms {row.batch_norms}; {left_over(result)} left in the folded module; "
        f"fold {first['fold']:.2f} s, capture {first['capture']:.2f} s (median share {share:.2f}), "
        f"certificate {first['certificate']:.2f} s",
        flush=True,
    )
    if share > GOAL_FOLD:
        row.losses.append(f"folding takes {share:.2f} of the capture")
    with tempfile.TemporaryDirectory() as folder:
        targets = ("onnx",) if options.no_tflite else ("onnx", "tflite")
        files = bnfold.convert(module, inputs, to=targets, output=folder, name=name)
        ours = {a.target: manifest.strip(Path(a.path).read_bytes()) for a in files.artifacts}
        if not files.passed:
            row.losses.append(f"not passed: {[f.code for f in files.findings]}")
            return row
    peers = {"torch.onnx.export": torch_onnx(module, inputs)}
    if importlib.util.find_spec("onnxslim"):
        peers["with OnnxSlim"] = onnxslim(peers["torch.onnx.export"])
    for peer, data in peers.items():
        compare(row, peer, "ONNX", data, ours["onnx"], onnx_run, onnx_operators, inputs, options.pairs)
    if not options.no_tflite:
        data = litert(module, inputs)
        compare(
            row,
            "litert-torch",
            "TFLite",
            data,
            ours["tflite"],
            tflite_run,
            tflite_operators,
            inputs,
            options.pairs,
        )
        ratios = conversion(module, inputs, options.conversions)
        middle = statistics.median(ratios)
        row.cells["conversion"] = f"{middle:.2f}"
        span = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"  conversion to TFLite takes {middle:.2f} of litert-torch's time ({span})", flush=True)
        if middle > GOAL_CONVERSION:
            row.losses.append(f"the conversion takes {middle:.2f} of litert-torch's time")
    return row


def compare(
    row: Row,
    peer: str,
    kind: str,
    theirs: bytes,
    ours: bytes,
    runner: Callable[[bytes, Inputs], Run],
    operators: Callable[[bytes], list[str]],
    inputs: Inputs,
    pairs: int,
) -> None:
    """One peer's file against ours: latency, operators, BatchNorms."""
    found = latency(lambda: runner(theirs, inputs), lambda: runner(ours, inputs), pairs)
    before, after = operators(theirs), operators(ours)
    left = before.count("BatchNormalization"), after.count("BatchNormalization")
    print(
        f"  {peer:<18} {found} our time, {len(before)} operators to {len(after)}, "
        f"{left[0]} BatchNormalization to {left[1]}",
        flush=True,
    )
    row.cells[peer] = str(found)
    row.cells[f"{kind} operators"] = "/".join(
        filter(None, (row.cells.get(f"{kind} operators"), str(len(before))))
    )
    if found.median < GOAL_LATENCY:
        row.losses.append(f"{found} against {peer}")
    if len(after) > len(before) or left[1]:
        row.losses.append(
            f"{len(after)} operators against {peer}'s {len(before)}, {left[1]} BatchNormalization"
        )
    row.cells[f"our {kind} operators"] = str(len(after))


def table(rows: list[Row]) -> None:
    """All rows, in Markdown, and what misses a goal."""
    print("\n| network | BatchNorms | fold/capture | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    for row in rows:
        for kind in ("ONNX", "TFLite"):
            if f"our {kind} operators" in row.cells:
                row.cells[f"{kind} operators"] += f" to {row.cells[f'our {kind} operators']}"
        cells = [
            f"`{row.name}`",
            row.batch_norms,
            f"{row.fold:.2f}",
            *(row.cells.get(c, "") for c in COLUMNS),
        ]
        print("| " + " | ".join(cells) + " |")
    print("\nmissed:" if any(row.losses for row in rows) else "\nno goal is missed")
    for row in rows:
        for loss in row.losses:
            print(f"  {row.name}: {loss}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="names of architectures, with commas")
    parser.add_argument("--pairs", type=int, default=36, help="interleaved pairs of latencies")
    parser.add_argument("--conversions", type=int, default=3, help="interleaved pairs of conversions")
    parser.add_argument("--no-tflite", action="store_true", help="ONNX alone: a third of the time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    from models import ARCHITECTURES as TABLE

    wanted = [name for name in options.only.split(",") if name]
    unknown = set(wanted) - set(TABLE)
    if unknown:
        parser.error(f"no architecture {sorted(unknown)[0]!r}; there are {', '.join(TABLE)}")
    rows = [
        measure(name, factory, (shape,), options)
        for name, (factory, shape) in TABLE.items()
        if not wanted or name in wanted
    ]
    table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
