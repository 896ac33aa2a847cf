"""MONAI Label's server for 3D Slicer, and training on what is submitted there."""
