"""The 25 hardest micro-graphs for a tool that folds BatchNorm, and what becomes of each.

Where another tool is known to be wrong, it is the axis, the groups, the border, a second reader, a negative
scale or the type: see the module of each family. A number with a letter is a variation of the same trap.
"""

from __future__ import annotations

import torch
from torch import nn

from tests.fold.micro_graphs import (
    activations,
    borders,
    joins,
    linears,
    moves,
    pooling,
    sharing,
    statistics,
    transposed,
)
from tests.fold.micro_graphs.micro import Micro

# fmt: off
TABLE: dict[str, Micro] = {
    "1": Micro("transposed conv, 2 groups of 3 -> BatchNorm: a scale per group", transposed.grouped),
    "2": Micro("transposed depthwise conv, multiplier 2 -> BatchNorm", transposed.depthwise),
    "3": Micro("Linear over (N, L, C) -> BatchNorm(L): never into the rows, L = C or not",
               linears.over_the_length, "kept", "the scale is per row of the input, the weight's rows are "
               "features, and before the layer is the network's input", shape="tokens"),
    "4": Micro("Linear -> transpose -> BatchNorm(C) -> transpose", linears.transposed, shape="tokens"),
    "5": Micro("Linear -> flatten(0, 1) -> BatchNorm -> reshape (LeViT)", linears.levit, shape="tokens"),
    "6": Micro("x @ W -> reshape that splits rows -> BatchNorm, equal sizes or not", linears.rows_split,
               "kept", "a channel is a mixture of rows and columns of the product", shape="tokens"),
    "7": Micro("one conv, two BatchNorms of its value", sharing.two_norms, "reduced reduced",
               "one goes into the conv, the other undoes it: two operators for both, and no second conv",
               dead=("kept kept", "what a dead channel's scale has made 0 cannot be undone")),
    "8": Micro("one conv, a normalised and a raw call: the raw one unchanged", sharing.one_call_raw),
    "9": Micro("one pair called twice: folded once", sharing.pair_twice, "folded folded"),
    "10": Micro("conv -> {BatchNorm, relu}", sharing.also_activated, "kept",
                "a second conv would cost more than a multiplication and an addition"),
    "11": Micro("conv -> {BatchNorm, output}: the output's value unchanged", sharing.also_returned, "kept",
                "a second conv would cost more than a multiplication and an addition"),
    "12": Micro("BatchNorm -> conv, zero padding", borders.before(padding=1), "reduced",
                "some taps at the border read 0 and not the shift: one addition"),
    "13a": Micro("BatchNorm -> conv, reflecting padding", borders.before(padding=1, padding_mode="reflect")),
    "13b": Micro("BatchNorm -> conv, replicating padding",
                 borders.before(padding=1, padding_mode="replicate")),
    "13c": Micro("BatchNorm -> conv, circular padding", borders.before(padding=1, padding_mode="circular")),
    "14a": Micro("BatchNorm -> depthwise conv, no padding", borders.depthwise),
    "14b": Micro("BatchNorm -> grouped conv, no padding", borders.before(groups=2)),
    "15": Micro("BatchNorm -> transposed conv", transposed.forward, "reduced",
                "fewer windows overlap at the border: one addition of a map"),
    "16": Micro("conv -> relu -> BatchNorm -> 1 x 1 conv, any sign", activations.between(activations.relu)),
    "17": Micro("conv -> relu -> BatchNorm -> padded 3 x 3 conv",
                activations.between(activations.relu, 3, 1)),
    "18a": Micro("conv -> max pooling -> BatchNorm, both signs", pooling.after(nn.MaxPool2d(2)), "reduced",
                 "a maximum turns no sign round: one multiplication by it"),
    "18b": Micro("conv -> max pooling -> BatchNorm -> conv",
                 pooling.between(nn.MaxPool2d(2), kernel_size=1)),
    "18c": Micro("conv -> max pooling -> BatchNorm -> padded conv: the shift back, the sign on",
                 pooling.between(nn.MaxPool2d(3, 1, 1), kernel_size=3, padding=1)),
    "19a": Micro("cat(conv, conv, raw) -> BatchNorm", joins.joined, "kept",
                 "the raw part, and only it, keeps a multiplication and an addition"),
    "19b": Micro("cat(conv, conv, raw) -> BatchNorm -> conv", joins.joined_then_conv),
    "20a": Micro("conv + conv -> BatchNorm: the shift once", joins.two_convs),
    "20b": Micro("conv + BatchNorm(x): an identity kernel", joins.identity_beside_a_conv, saves=1),
    "21a": Micro("conv -> pixel shuffle -> BatchNorm", moves.pixel_shuffle),
    "21b": Micro("conv -> channel shuffle -> BatchNorm", moves.channel_shuffle),
    "21c": Micro("conv -> bilinear -> BatchNorm", pooling.after(pooling.enlarged("bilinear"))),
    "22a": Micro("conv -> average -> BatchNorm", pooling.after(nn.AvgPool2d(2))),
    "22b": Micro("conv -> average, padding not counted -> BatchNorm",
                 pooling.after(nn.AvgPool2d(2, padding=1, count_include_pad=False))),
    "22c": Micro("conv -> average, padding counted -> BatchNorm", pooling.after(nn.AvgPool2d(2, padding=1)),
                 "reduced", "the average of the shift and counted zeros differs at the border: one addition"),
    "22d": Micro("conv -> zeros around -> BatchNorm", borders.padded_then_normalised(0.0), "reduced",
                 "the border becomes the shift, whatever the conv: one addition"),
    "22e": Micro("conv -> 0.5 around -> BatchNorm", borders.padded_then_normalised(0.5), "reduced",
                 "the border becomes another value in each channel, and padding has one: a map is added"),
    "22f": Micro("conv -> 0.5 around -> BatchNorm, one channel: the pad value becomes s / 2 + t",
                 borders.one_channel),
    "23a": Micro("BatchNorm -> three linear layers: into all", linears.parallel_heads, shape="features"),
    "23b": Micro("BatchNorm -> LSTM", linears.recurrent(nn.LSTM).build, shape="sequence"),
    "23c": Micro("BatchNorm -> query, key, value", linears.projections, shape="sequence"),
    "24a": Micro("gamma 0: a constant channel", statistics.pair,
                 prepare=statistics.with_value("weight", 0.0)),
    "24b": Micro("variance 0", statistics.pair, prepare=statistics.with_value("running_var", 0.0)),
    "24c": Micro("negative variance", statistics.pair, "refused", "its square root is NaN",
                 prepare=statistics.with_value("running_var", -1.0)),
    "24d": Micro("NaN mean", statistics.pair, "refused", "no number comes of it",
                 prepare=statistics.with_value("running_mean", float("nan"))),
    "25a": Micro("half-precision conv, float32 BatchNorm, tiny variance", statistics.mixed,
                 prepare=statistics.tiny_in_half, dtypes=(torch.float16, torch.float16)),
    "25b": Micro("training=True", statistics.training_mode, "refused", "batch statistics are in use"),
    "25c": Micro("track_running_stats=False", statistics.batch_statistics, "refused",
                 "batch statistics are in use"),
    "25d": Micro("a conv subclass with a forward of its own", statistics.subclassed),
}
# fmt: on
