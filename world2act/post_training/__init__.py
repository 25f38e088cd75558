"""Post-training methods: how a trained policy becomes a better one. See `contract` for what a method provides."""
