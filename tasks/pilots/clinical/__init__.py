"""Clinical outcomes predicted by quantum kernels: Moradi et al., Scientific Reports 12, 1851 (2022)."""
