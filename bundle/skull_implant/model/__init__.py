"""The networks of a completer, and how a completed skull comes of them."""
