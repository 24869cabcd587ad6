"""A Flower app as its tutorial has it, without kofn."""
