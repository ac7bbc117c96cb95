"""The slide store as bytes on disk: shards, JPEG codec, NGFF metadata, patch tables, receipts."""
