"""The health of population statistics: audit, diagnose, recalibrate.

audit      from a network to findings in the order to act on them; one check per file in checks/
causes     the catalogue: one code per cause
layers     what a file or a module stores about its BatchNorms
moments    mean and variance in float64, merged exactly
batches    what the user gives as frames, as arguments of forward
observe    the BatchNorm calls of a running network

Recalibration, from the bottom up:

reduction      the moments of one batch, in float64
targets        which buffers a call reads
packed         the moments of many calls side by side
answers        what a network is told where it asks a BatchNorm
forward        one batch through the network, pooled or refused
levels         which layers can be pooled together
pooling        all batches, in one pass or layer by layer
writing        pooled moments into a module
held_out       whether the network is better for it
recalibrate    the whole, and the public function
recalibration, notes    what it came to, and what to tell about it
"""
