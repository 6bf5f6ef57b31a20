"""Scripts that measure what the README claims, and the data that they run on; nothing in the package imports them."""
