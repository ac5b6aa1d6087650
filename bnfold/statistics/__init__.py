"""The health of population statistics: audit, diagnose, recalibrate.

audit      from a network to findings in the order to act on them; one check per file in checks/
causes     the catalogue: one code per cause
layers     what a file or a module stores about its BatchNorms
moments    mean and variance in float64, merged exactly
batches    what the user gives as frames, as arguments of forward
observe    the BatchNorm calls of a running network
"""
