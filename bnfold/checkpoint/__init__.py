"""Files -> modules, safely.

    content    what a file is, by its first bytes; what is no checkpoint is named and refused
    archive    the zip container of torch.save: structure, sizes, CRC of every member
    opcodes    what a pickle would build, before anything builds it
    pickles    torch.load(weights_only=True), its refusals turned into coded errors
    tensors    safetensors
    states     the state dicts inside a checkpoint, and which of them is meant
    fit        a state dict against a module: keys, shapes, dtypes; then filling it, all or nothing

No code in a checkpoint is run unless ``trust_pickle`` is given. Codes, one per cause:

    The file                                       The state dict and the model
    L001 not there                                 L010 keys differ by one prefix
    L002 pickle needs a class beyond weights       L011 keys missing or unexpected
    L003 a folder, or no regular file              L012 shapes differ
    L004 cannot be opened                          L013 dtypes of different kinds
    L005 empty                                     L014 no state dict of that name
    L006 Git LFS pointer                           L015 no state dict in the file
    L007 web page                                  L016 the prefix to strip begins no key
    L008 some other kind of file                   L017 several state dicts, none the obvious one
    L009 sha256 differs                            L018 entries that are not named tensors
    L020 safetensors: size against header          L019 values overflow the model's dtype
    L021 safetensors: header damaged               L035 tied parameters with different values
    L022 zip: truncated or damaged                 L036 the model's keys carry a prefix
    L023 zip: a member fails its CRC               L037 keys carry a wrapper's name inside
    L024 zip: declared sizes are absurd            L038 sparse, quantized or meta tensors
    L025 TorchScript                               L039 the model rejects its own keys
    L026 tar of torch 0.1                          L040 a pickle made to exhaust the machine
    L027 pickle cannot be read                     Notes (findings of severity info)
    L028 pickle protocol beyond the safe loader    L101 other state dicts beside the one used
    L029 a whole module was pickled                L102 floats widened    L103 floats rounded
    L030 code of a trusted pickle failed           L104 num_batches_tracked missing or not needed
    L032 plain pickle, not of torch.save           L105 keys outside the prefix left out
    L034 file changed while it was read            L106 tied parameter stored once
    L041 the record of old statistics is damaged   L107 file has no checksums
                                                   L108 pickle was trusted
                                                   L109 averaged weights are all there is
"""

from __future__ import annotations

from bnfold.checkpoint.loading import Loaded, load, load_with_notes, read
from bnfold.checkpoint.states import Checkpoint

__all__ = ["Checkpoint", "Loaded", "load", "load_with_notes", "read"]
