"""From a slide to a store: plan, shards, tissue, patch table."""
