"""The kernels of CNet: networks, checkpoints, control and fidelity. Imports nothing of a host."""
