"""Images: the store (image service), pulling into it, and the cache of bases made from it."""
