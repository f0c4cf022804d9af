"""Learn: pure computing on tensors. No disk, no clock, no TensorBoard."""
