"""Engines that run RWKV on a CPU, ours and others', a file each and behind one interface."""
