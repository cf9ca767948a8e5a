"""The frozen base: loaded once in the dtype and memory order of its kernels, and shared by all parties."""
