"""The frozen base: loaded once, in the dtype and the memory order of its kernels, shared by all parties."""
