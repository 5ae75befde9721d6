"""Released weights, in the layout of PyTorch's libraries, made into cascade folders."""
