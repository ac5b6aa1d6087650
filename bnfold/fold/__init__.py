"""The fold engine: BatchNorm as a per-channel affine that is moved until it disappears."""
