"""The completed skull on the bone that is there: the vault along rays, shape model of its tables, and the face."""
