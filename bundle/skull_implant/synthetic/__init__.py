"""Made-up heads, and defects cut into real or made-up ones."""
