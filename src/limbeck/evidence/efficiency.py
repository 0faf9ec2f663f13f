"""What a model costs: parameters, bytes, latency, throughput."""

import json
import random
from collections.abc import Callable, Mapping
from itertools import cycle
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.evidence.records import Efficiency, Latency
from limbeck.signals.call import call

WARMUP, TIMED, SECONDS = 20, 100, 2.0
FEWEST = 5  # timed passes, however slow the model
_SPELT = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def parameters(module: nn.Module) -> int:
    """Numbers in the module's parameters; a tied tensor counts once."""
    return sum(one.numel() for one in module.parameters())  # torch yields a shared parameter once


def bytes_on_disk(module: nn.Module) -> int:
    """Size of the module's state dict as a safetensors file, a tied tensor stored once.

    Counted from the format (eight bytes of length, a JSON header padded to eight, the tensors) and not by writing the
    file, which would need the memory of a second model.
    """
    kept: dict[str, Tensor] = {}
    seen: set[object] = set()
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):  # extra state is no tensor, and safetensors holds nothing else
            continue
        place = (value.data_ptr(), tuple(value.shape), tuple(value.stride()), value.dtype)
        if value.numel() and place in seen:
            continue
        seen.add(place)
        kept[name] = value
    header, total = {}, 0
    for name, value in sorted(kept.items(), key=lambda item: (-item[1].element_size(), item[0])):
        size = value.numel() * value.element_size()
        spelt = _SPELT.get(value.dtype, str(value.dtype).removeprefix("torch.").upper())
        header[name] = {"dtype": spelt, "shape": list(value.shape), "data_offsets": [total, total + size]}
        total += size
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + total


def compare_latency(
    calls: Mapping[str, Callable[[], object]],
    *,
    device: torch.device | str = "cpu",
    warmup: int = WARMUP,
    timed: int = TIMED,
    seconds: float = SECONDS,
    seed: int = 0,
) -> dict[str, Latency]:
    """Median and 95th percentile of each call, measured in turns so that whatever disturbs one disturbs all.

    Every round runs each call once, in an order drawn anew. Each call gets about ``seconds`` for its warm-up and as
    much for its timing; a slow model is timed less often (at least 5 times) and says how often.
    """
    device = torch.device(device)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    order = list(calls)
    generator = random.Random(seed)  # noqa: S311 - an order of measurement, no secret
    budget = seconds * max(1, len(order))
    times: dict[str, list[float]] = {name: [] for name in order}

    def rounds(count: int, fewest: int) -> int:
        start = perf_counter()
        for done in range(count):
            if done >= fewest and perf_counter() - start > budget:
                return done
            generator.shuffle(order)
            for name in order:
                wait()
                begun = perf_counter()
                calls[name]()
                wait()
                times[name].append(perf_counter() - begun)
        return count

    with torch.no_grad():  # not inference_mode: a teacher may still have hooks, which look at tensors' versions
        warmed = rounds(warmup, min(2, warmup))
        for measured in times.values():
            measured.clear()
        rounds(timed, min(FEWEST, timed))
    return {
        name: Latency(
            p50_ms=1000 * float(np.percentile(times[name], 50)),
            p95_ms=1000 * float(np.percentile(times[name], 95)),
            timed=len(times[name]),
            warmup=warmed,
        )
        for name in calls
    }


def compare_efficiency(
    models: Mapping[str, tuple[nn.Module, Mapping[str, Tensor], Mapping[str, Tensor]]],
    *,
    device: torch.device | str = "cpu",
    seconds: float = SECONDS,
) -> dict[str, Efficiency]:
    """The cost of several models under the same conditions, their latencies and throughputs measured in turns.

    ``models``: by name, a module with input columns for some examples, which take turns one by one, and for one batch (as
    `limbeck.signals.call.call` takes them). The modules are moved to ``device``, set to evaluation for the measurement
    and left in the mode they were in.
    """
    device = torch.device(device)
    # Every submodule has its own mode: a frozen batch norm must not come back in training.
    modes = [(part, part.training) for module, _, _ in models.values() for part in module.modules()]

    def bound(module: nn.Module, columns: Mapping[str, Tensor]) -> Callable[[], object]:
        placed = {name: value.to(device) for name, value in columns.items()}
        return lambda: call(module, placed)

    def in_turn(module: nn.Module, columns: Mapping[str, Tensor]) -> Callable[[], object]:
        rows = range(len(next(iter(columns.values()))))
        calls = cycle([bound(module, {name: value[row : row + 1] for name, value in columns.items()}) for row in rows])
        return lambda: next(calls)()

    for module, _, _ in models.values():
        module.to(device).eval()
    try:
        one = {name: in_turn(module, columns) for name, (module, columns, _) in models.items()}
        many = {name: bound(module, columns) for name, (module, _, columns) in models.items()}
        latency = compare_latency(one, device=device, seconds=seconds)
        # Throughput is stable with fewer passes: each is a whole batch.
        bulk = compare_latency(many, device=device, warmup=3, timed=20, seconds=seconds / 2)
    finally:
        for part, mode in modes:
            part.training = mode
    sizes = {name: len(next(iter(columns.values()))) for name, (_, _, columns) in models.items()}
    return {
        name: Efficiency(
            parameters=parameters(module),
            bytes_on_disk=bytes_on_disk(module),
            latency=latency[name],
            throughput=1000 * sizes[name] / bulk[name].p50_ms,
            throughput_batch=sizes[name],
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            threads=torch.get_num_threads(),
        )
        for name, (module, _, _) in models.items()
    }


def efficiency(
    module: nn.Module,
    columns_one: Mapping[str, Tensor],
    columns_batch: Mapping[str, Tensor],
    *,
    device: torch.device | str = "cpu",
    seconds: float = SECONDS,
) -> Efficiency:
    """The cost of one model; to compare models, measure them together with `compare_efficiency`."""
    return compare_efficiency({"model": (module, columns_one, columns_batch)}, device=device, seconds=seconds)["model"]
