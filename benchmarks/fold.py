"""bnfold's artifacts against the exporters alone, side by side in one run, for every sample architecture.

    python benchmarks/fold.py [--only NAME,NAME] [--pairs 30] [--no-tflite]

For each network with drawn statistics:

- BatchNorms left, and run-time operators left, of the folded graph against the exporters' own files;
- seconds of graph edits and algebra against capture (the certificate's apart);
- latency of one frame, one thread, as the ratio to bnfold's artifact: the median of interleaved pairs and its
  95% interval. Above 1 means that bnfold's file is faster. The peers are torch.onnx.export as it is, the same
  followed by OnnxSlim where that is installed, and litert-torch as it is.

Which of the two runs first alternates from pair to pair, so that a busy machine disturbs both alike.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURES = ROOT / "sample_models" / "architectures"
sys.path[:0] = [str(ROOT), str(ARCHITECTURES)]

import bnfold  # noqa: E402
from bnfold import manifest  # noqa: E402
from bnfold.export.quiet import quiet  # noqa: E402
from bnfold.fold import FoldResult  # noqa: E402
from bnfold.fold.site import BATCH_NORMS  # noqa: E402

Run = Callable[[], object]


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


def onnx_run(data: bytes, inputs: tuple[torch.Tensor, ...]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    feed = {spec.name: x.numpy() for spec, x in zip(session.get_inputs(), inputs, strict=True)}
    return lambda: session.run(None, feed)


def onnx_operators(data: bytes) -> int:
    import onnx

    return len(onnx.load_from_string(data).graph.node)


def tflite_run(data: bytes, inputs: tuple[torch.Tensor, ...]) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    by_shape = list(inputs)
    for detail in interpreter.get_input_details():
        match = next(x for x in by_shape if tuple(x.shape) == tuple(detail["shape"]))
        by_shape.remove(match)
        interpreter.set_tensor(detail["index"], match.numpy())
    return interpreter.invoke


def tflite_operators(data: bytes) -> int:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    # without delegates, every operator of the file is counted
    kind = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=kind)
    return len(interpreter._get_ops_details())


# --- peers ---------------------------------------------------------------------------------------------


def torch_onnx(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> bytes:
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


def litert(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> bytes:
    import litert_torch

    with quiet(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.tflite"
        litert_torch.convert(module, inputs).export(str(path))
        return path.read_bytes()


# --- measuring -----------------------------------------------------------------------------------------


def once(run: Run, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - started) / calls


def ratio(peer: Run, ours: Run, pairs: int) -> tuple[float, float, float]:
    """Median of peer / ours over interleaved pairs, and its 95% interval (by order statistics)."""
    once(peer, 5), once(ours, 5)
    calls = max(1, round(0.02 / max(once(ours, 5), 1e-6)))
    found = []
    for pair in range(pairs):
        if pair % 2:
            b, a = once(ours, calls), once(peer, calls)
        else:
            a, b = once(peer, calls), once(ours, calls)
        found.append(a / b)
    found.sort()
    reach = round(0.98 * np.sqrt(pairs))
    middle = pairs // 2
    return statistics.median(found), found[max(0, middle - reach)], found[min(pairs - 1, middle + reach)]


def measure(name: str, factory: Callable[[], torch.nn.Module], shapes: Any, pairs: int, tflite: bool) -> None:
    torch.manual_seed(0)
    module = drawn(factory())
    inputs = tuple(torch.randn(shape) for shape in shapes)
    result = bnfold.fold(module, inputs)
    seconds, norms = result.report.seconds, result.report.batch_norms
    counts = " ".join(
        f"{sum(e.status == status for e in norms)} {status}"
        for status in ("folded", "reduced", "kept", "refused")
        if any(e.status == status for e in norms)
    )
    print(
        f"{name}: {len(norms)} BatchNorms, {counts}; {left_over(result)} left; "
        f"fold {seconds['fold']:.2f} s, capture {seconds['capture']:.2f} s, "
        f"certificate {seconds['certificate']:.2f} s"
    )
    with tempfile.TemporaryDirectory() as folder:
        targets = ("onnx", "tflite") if tflite else ("onnx",)
        files = bnfold.convert(module, inputs, to=targets, output=folder, name=name)
        ours = {a.target: manifest.strip(Path(a.path).read_bytes()) for a in files.artifacts}
        if not files.passed:
            print(f"  not passed: {[f.code for f in files.findings]}")
            return
    peers = {"torch.onnx.export": torch_onnx(module, inputs)}
    if importlib.util.find_spec("onnxslim"):
        peers["with OnnxSlim"] = onnxslim(peers["torch.onnx.export"])
    mine = onnx_run(ours["onnx"], inputs)
    for peer, data in peers.items():
        theirs, own = onnx_operators(data), onnx_operators(ours["onnx"])
        show(peer, ratio(onnx_run(data, inputs), mine, pairs), theirs, own)
    if tflite:
        data = litert(module, inputs)
        mine = tflite_run(ours["tflite"], inputs)
        theirs, own = tflite_operators(data), tflite_operators(ours["tflite"])
        show("litert-torch", ratio(tflite_run(data, inputs), mine, pairs), theirs, own)


def show(peer: str, found: tuple[float, float, float], theirs: int, ours: int) -> None:
    middle, low, high = found
    interval = f"[{low:.2f}, {high:.2f}]"
    print(f"  {peer:<18} {middle:5.2f}x our time {interval}, {theirs} operators to {ours}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="names of architectures, with commas")
    parser.add_argument("--pairs", type=int, default=30, help="interleaved pairs of measurements")
    parser.add_argument("--no-tflite", action="store_true", help="ONNX alone: a third of the time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    from models import ARCHITECTURES as TABLE

    wanted = [name for name in options.only.split(",") if name]
    for name, (factory, shape) in TABLE.items():
        if not wanted or name in wanted:
            measure(name, factory, (shape,), options.pairs, not options.no_tflite)
    return 0


if __name__ == "__main__":
    sys.exit(main())
