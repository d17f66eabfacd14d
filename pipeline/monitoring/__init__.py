"""New images beside the run: what `anomalyncd drift` compares, and its page."""
