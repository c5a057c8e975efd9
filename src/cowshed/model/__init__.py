"""The nouns: frozen values that travel on every floor. Sizes are bytes, times seconds, words StrEnum."""
