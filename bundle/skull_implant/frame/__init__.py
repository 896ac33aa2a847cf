"""The bone of a head and its canonical frame: skull mask, alignment by the vault, grids and rays in that frame."""
