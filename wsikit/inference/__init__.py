"""From the patches of a store to captions, predictions, votes, INPC categories and search results."""
