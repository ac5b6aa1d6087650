"""The health of population statistics: audit, diagnose, recalibrate.

causes     the catalogue: one code per cause
layers     what a file or a module stores about its BatchNorms
moments    mean and variance in float64, merged exactly
batches    what the user gives as frames, as arguments of forward
observe    the BatchNorm calls of a running network
"""
