"""Other methods to compare with, and the method paper's own weights."""
