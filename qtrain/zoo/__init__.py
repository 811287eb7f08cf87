"""Weight and activation quantizers of many papers, one short file per family."""
